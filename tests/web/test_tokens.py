"""Tokens of every kind at the endpoint: the texts of the original, to the byte.

Each test names its case of the original's own tests, where there is one.
"""

import dataclasses
import json
from typing import Any

import pytest

from rowcast import runtime
from rowcast.auth.keys import parse_keys
from rowcast.auth.tokens import Verifier
from rowcast.model.claims import TokenError
from rowcast.protocol.messages import Version
from rowcast.settings import load
from support.frames import both, opened, refusal, stop_clock
from support.keys import ALGORITHMS, Signer, key_set, make_signer, publishing, signer
from support.serving import Running, running
from support.tokens import SECRET, make_token

pytestmark = pytest.mark.anyio

CHECK = "check your JWT secret or JWKS configuration"
SIGNER = f"Failed to generate JWT signer, {CHECK}"
SIGNER_OF_ABC = f'Failed to generate JWT signer for key ID (kid) "abc", {CHECK}'


def verify_with(server: Running, *signers: Signer, **rules: Any) -> None:
    """Have a server take the keys of these, besides the secret of the tests."""
    verifier = Verifier(SECRET, find=parse_keys(key_set(*signers)).find, **rules)
    server.app.state.services = dataclasses.replace(server.app.state.services, verify=verifier)


async def refused(server: Running, key: str) -> str:
    status, _, body = await refusal(server, f"apikey={key}")
    assert status == 401
    return str(json.loads(body)["error"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_key_of_any_kind_opens_and_joins(algorithm: str) -> None:
    """Cases 4 and 20."""
    good, foreign = signer(algorithm), make_signer(algorithm)
    async with running() as server:
        verify_with(server, good)
        async with opened(server, Version.V2, good.token()) as client:
            await client.join("realtime:a", {"config": {}})
            await client.join("realtime:b", {"config": {}, "access_token": good.token("authenticated")})
            await client.is_refused(
                "realtime:c",
                {"config": {}, "access_token": foreign.token()},
                "JwtSignatureError: Failed to validate JWT signature",
            )
        assert await refused(server, foreign.token()) == "Failed to validate JWT signature"


async def test_a_handshake_with_a_key_that_is_not_known_names_it() -> None:
    """Cases 3 and 4."""
    async with running() as server:
        verify_with(server, signer("RS256"))
        assert await refused(server, signer("RS256", "abc").token()) == SIGNER_OF_ABC
        assert await refused(server, signer("ES256", "abc").token()) == SIGNER_OF_ABC
        assert await refused(server, signer("RS256").sign({"role": "anon"}, typ="JWT")) == SIGNER
        assert await refused(server, signer("RS256").token(exp=1)) == "Token has expired"


async def test_a_token_of_the_secret_may_name_a_key_that_is_not_known() -> None:
    """Case 4."""
    by_secret = Signer("HS256", SECRET.encode(), {"kid": "abc"})
    async with running() as server:
        verify_with(server, signer("RS256"))
        async with opened(server, Version.V2, by_secret.token()) as client:
            await client.hears_nothing()


@both
async def test_a_join_or_refresh_with_a_key_that_is_not_known_names_it(version: Version) -> None:
    """Case 20."""
    unknown = {"config": {}, "access_token": signer("EdDSA", "abc").token()}
    unnamed = {"config": {}, "access_token": signer("EdDSA").sign({}, typ="JWT")}
    async with running() as server:
        verify_with(server, signer("RS256"))
        async with opened(server, version) as client:
            await client.is_refused("realtime:room", unknown, f"JwtSignerError: {SIGNER_OF_ABC}")
            await client.is_refused("realtime:room", unnamed, f"JwtSignerError: {SIGNER}")
            await client.join("realtime:room", {"config": {}})
            await client.say("realtime:room", "access_token", unknown, "2")
            told = {"message": SIGNER_OF_ABC, "status": "error", "extension": "system", "channel": "room"}
            await client.hears("realtime:room", "system", told, None)
            await client.hears("realtime:room", "phx_close", {}, "11", "11")


@both
async def test_a_key_that_is_no_token_leaves_the_socket_its_own(version: Version) -> None:
    """Case 21, with an apikey of the key set."""
    async with running() as server:
        verify_with(server, signer("ES256"))
        async with opened(server, version, signer("ES256").token()) as client:
            for name in ("access_token", "user_token"):
                await client.join(f"realtime:{name}", {"config": {}, name: "sb_publishable_x"})


async def test_decimals_and_text_in_times_are_judged_the_same_under_every_key() -> None:
    """Case 5."""
    one = signer("ES384")
    async with running() as server:
        clock = stop_clock(server)
        verify_with(server, one)
        token = one.token(exp=clock[0] + 60.5, iat=clock[0] - 0.25)
        async with opened(server, Version.V2, token) as client:
            await client.join("realtime:room", {"config": {}})
        for wrong in ({"exp": str(clock[0] + 60)}, {"iat": str(clock[0])}, {"iat": None}):
            assert await refused(server, one.token(**wrong)) == "Token expiration time is invalid"


@both
async def test_claims_that_the_server_requires_are_compared(version: Version) -> None:
    """Case 11."""
    issuer = "https://auth.example/auth/v1"
    text = "Claim `iss` of the JWT is not the one that is required"
    async with running() as server:
        verify_with(server, required={"iss": issuer})
        assert await refused(server, make_token()) == text
        assert await refused(server, make_token(iss="https://other.example")) == text
        async with opened(server, version, make_token(iss=issuer)) as client:
            await client.join("realtime:room", {"config": {}, "access_token": make_token(iss=issuer)})
            await client.is_refused(
                "realtime:other", {"config": {}, "access_token": make_token()}, f"InvalidJWTToken: {text}"
            )


@both
async def test_a_channel_lives_as_long_as_the_leeway_lets_its_token(version: Version) -> None:
    async with running() as server:
        clock = stop_clock(server)
        verify_with(server, leeway=10.0)
        async with opened(server, version) as client:
            token = make_token(exp=clock[0] - 9.99)
            await client.join("realtime:room", {"config": {}, "access_token": token})
            clock[0] += 0.01
            assert '"message":"Token has expired' in await client.hear()
            await client.hears("realtime:room", "phx_close", {}, "11", "11")


async def test_a_server_takes_its_keys_from_where_they_are_published(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("ROWCAST_JWT_SECRET", raising=False)
    async with publishing() as page:
        page.publish(key_set(signer("ES256")))
        async with runtime.running(load(database_url=migrated, jwks=page.address)) as started:
            services = started.app.state.services
            assert services.verify(signer("ES256").token(), services.clock()).role == "anon"
            assert "jwks" not in services.faults()
            with pytest.raises(TokenError, match="Failed to generate JWT signer"):
                services.verify(make_token(), services.clock())


async def test_a_server_starts_without_its_keys_and_is_not_ready(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = load(
        database_url=migrated,
        jwks="http://127.0.0.1:9/",
        jwt_secret=SECRET,
        jwt_secret_next=SECRET[::-1],
        jwt_claim_validators='{"iss": "me"}',
        jwt_leeway="60s",
    )
    async with runtime.running(settings) as started:
        services = started.app.state.services
        assert services.faults()["jwks"] == "the key set could not be fetched (ConnectError)"
        for secret in (SECRET, SECRET[::-1]):
            assert services.verify(make_token(secret=secret, iss="me"), services.clock()).role == "anon"
        assert services.verify(make_token(iss="me", lifetime=-30), services.clock()).role == "anon"
        with pytest.raises(TokenError, match="Claim `iss`"):
            services.verify(make_token(), services.clock())
