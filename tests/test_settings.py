"""Settings: every fault named at once, and no secret shown."""

from pathlib import Path

import pytest

from rowcast.errors import SettingsError
from rowcast.listing import describe
from rowcast.settings import load
from support.keys import key_set, signer

URL = "postgresql://me:a-password@db.example:5432/app?password=another-one"
SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env file of a developer's
    for name in ("DATABASE_URL", "ROWCAST_DATABASE_URL", "ROWCAST_JWT_SECRET", "JWT_SECRET", "PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ROWCAST_JWKS", "ROWCAST_JWT_SECRET_NEXT", "JWT_CLAIM_VALIDATORS", "ROWCAST_JWT_LEEWAY"):
        monkeypatch.delenv(name, raising=False)


def test_all_faults_are_named_at_once_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:a-password@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", "short-secret")
    monkeypatch.setenv("PORT", "70000")
    monkeypatch.setenv("ROWCAST_RETENTION", "long")
    monkeypatch.setenv("ROWCAST_LANE_LIMIT", "4 pounds")
    monkeypatch.setenv("ROWCAST_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError) as fault:
        load()
    text = str(fault.value)
    for name in ("DATABASE_URL", "JWT_SECRET", "PORT", "RETENTION", "LANE_LIMIT", "LOG_LEVEL"):
        assert name in text
    assert "a-password" not in text
    assert "short-secret" not in text


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingsError) as fault:
        load()
    assert "DATABASE_URL is missing" in str(fault.value)
    assert "ROWCAST_JWT_SECRET is missing, and no keys are in ROWCAST_JWKS" in str(fault.value)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    settings = load()
    found = {one.variable: one for one in describe(settings, {"DATABASE_URL": URL})}
    assert found["DATABASE_URL"].value == "postgresql://me:********@db.example:5432/app"
    assert found["DATABASE_URL"].source == "environment, DATABASE_URL"
    assert found["PORT"].source == "default"
    assert found["PORT"].description == "The port to listen on."
    shown = repr(settings) + repr(found)
    assert "a-password" not in shown
    assert "another-one" not in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    "password", ["top/secret", "top#secret", "top?secret", "12/secret", "12#secret", "[secret"]
)
def test_an_address_with_an_unescaped_password_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{password}@db.example:5432/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    with pytest.raises(SettingsError) as fault:
        load()
    assert "DATABASE_URL" in str(fault.value)
    assert "secret" not in str(fault.value)
    assert "top" not in str(fault.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:a%2Fb%23c@db.example:5432/app",
        "postgresql://one.example:5432,two.example:5433/app",
        "postgres://me@[::1]:5432/app?sslmode=require",
        "postgresql:///app?host=/var/run/postgresql",
    ],
)
def test_addresses_that_postgres_takes_are_taken(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DATABASE_URL", address)
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    assert load().dsn == address


def test_supabases_names_are_read_where_they_mean_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    monkeypatch.setenv("TENANT_MAX_JOINS_PER_SECOND", "7")
    monkeypatch.setenv("TENANT_MAX_CHANNELS_PER_CLIENT", "8")
    monkeypatch.setenv("TENANT_MAX_CONCURRENT_USERS", "9")
    monkeypatch.setenv("CLIENT_PRESENCE_MAX_CALLS", "10")
    monkeypatch.setenv("CLIENT_PRESENCE_WINDOW_MS", "1500")
    monkeypatch.setenv("CONNECT_ERROR_BACKOFF_MS", "2500")
    (tmp_path / ".env").write_text("CHANNEL_ERROR_BACKOFF_MS=250\nNO_CHANNEL_TIMEOUT_IN_MS=90000\n")
    settings = load()
    assert (settings.max_joins_per_second, settings.max_channels, settings.max_connections) == (7, 8, 9)
    assert (settings.handshake_delay, settings.refusal_delay, settings.no_channel_timeout) == (
        2.5,
        0.25,
        90.0,
    )
    assert (settings.max_presence_calls, settings.presence_window) == (10, 1.5)
    monkeypatch.setenv("ROWCAST_HANDSHAKE_DELAY", "3")
    assert load().handshake_delay == 3.0
    assert load(handshake_delay="4s").handshake_delay == 4.0


def test_a_wrong_number_of_milliseconds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    monkeypatch.setenv("CHANNEL_ERROR_BACKOFF_MS", "long")
    with pytest.raises(SettingsError, match="ROWCAST_REFUSAL_DELAY is no duration"):
        load()


KEYS = key_set(signer("ES256"))
ADDRESS = "https://me:a-password@auth.example/jwks.json?key=a-password"


@pytest.mark.parametrize("jwks", [KEYS, ADDRESS, "HTTP://localhost:9/jwks.json"])
def test_a_key_set_does_without_a_secret(monkeypatch: pytest.MonkeyPatch, jwks: str) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", "")
    monkeypatch.setenv("ROWCAST_JWKS", jwks)
    settings = load()
    assert settings.jwt_secrets == ()
    found = {one.variable: one.value for one in describe(settings, {})}
    assert (found["ROWCAST_JWKS"], found["ROWCAST_JWT_SECRET"]) == ("********", "")
    assert "a-password" not in repr(settings)


@pytest.mark.parametrize("empty", ["", " ", '{"keys":[]}'])
def test_a_key_set_without_keys_needs_a_secret(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWKS", empty)
    monkeypatch.setenv("ROWCAST_JWT_SECRET_NEXT", SECRET[::-1])
    with pytest.raises(SettingsError, match="ROWCAST_JWT_SECRET is missing"):
        load()
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    settings = load()
    assert (settings.jwks, settings.jwt_secrets) == (None, (SECRET, SECRET[::-1]))


def test_what_is_wrong_about_keys_is_named_and_nothing_of_it_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", KEYS)
    monkeypatch.setenv("ROWCAST_JWT_SECRET_NEXT", "a-password")
    monkeypatch.setenv("ROWCAST_JWKS", '{"keys":[{"kty":"oct","kid":"k","k":"a-password"}]}')
    monkeypatch.setenv("JWT_CLAIM_VALIDATORS", '["a-password"]')
    monkeypatch.setenv("ROWCAST_JWT_LEEWAY", "a while")
    with pytest.raises(SettingsError) as fault:
        load()
    text = str(fault.value)
    assert "ROWCAST_JWT_SECRET is a public key, a certificate or a key set" in text
    assert "ROWCAST_JWT_SECRET_NEXT must have at least 32 bytes" in text
    assert "ROWCAST_JWKS has no key that can be used: key 1 is too short" in text
    assert "ROWCAST_JWT_CLAIM_VALIDATORS is no JSON object" in text
    assert "ROWCAST_JWT_LEEWAY is no duration" in text
    assert "a-password" not in text
    assert signer("ES256").jwk["x"] not in text


def test_claims_that_are_required_are_read_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    assert load().jwt_claim_validators == {}
    for text, claims in (("", {}), ('{"iss": "https://a", "n": 1}', {"iss": "https://a", "n": 1})):
        monkeypatch.setenv("JWT_CLAIM_VALIDATORS", text)
        assert load().jwt_claim_validators == claims


@pytest.mark.parametrize("secret", ["//[", "postgresql://[", "//[::1", "http://[x]y"])
def test_a_secret_that_looks_like_a_broken_address_is_hidden_like_any_other(secret: str) -> None:
    found = load(database_url="postgresql://me@db.example/app", jwt_secret=secret + "s" * 32)
    shown = {one.variable: one.value for one in describe(found, {})}
    assert shown["ROWCAST_JWT_SECRET"] == "********"


def test_an_opaque_key_for_a_role_that_is_never_assumed_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", "x" * 32)
    monkeypatch.setenv("ROWCAST_API_KEYS", "sb_secret_0123456789ABCDEF=postgres")
    with pytest.raises(SettingsError) as fault:
        load()
    assert "ROWCAST_API_KEYS names roles that are not in ROWCAST_ROLES: postgres" in str(fault.value)
    monkeypatch.setenv("ROWCAST_ROLES", "anon,postgres")
    assert {one.value for one in describe(load(), {}) if one.name == "api_keys"} == {"********"}


def test_pages_come_from_a_folder_that_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@db.example/app")
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)
    for text, folder in (("", None), (str(tmp_path), tmp_path)):
        monkeypatch.setenv("ROWCAST_PAGES", text)
        assert load().pages == folder
    monkeypatch.setenv("ROWCAST_PAGES", "nowhere")
    with pytest.raises(SettingsError, match="ROWCAST_PAGES is no folder: nowhere"):
        load()
