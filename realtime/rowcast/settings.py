"""Settings, from the environment or a .env file. Wrong ones stop the start, with every fault named at
once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rowcast.allowances import Allowances, one_of
from rowcast.auth.apikeys import parse_api_keys
from rowcast.auth.jwks import Jwks
from rowcast.auth.keys import secret_key
from rowcast.db.address import fault
from rowcast.errors import SettingsError
from rowcast.units import Duration, Size

#: Supabase's names whose values are milliseconds, without a unit.
_IN_MILLISECONDS: Final = frozenset(
    {
        "CONNECT_ERROR_BACKOFF_MS",
        "CHANNEL_ERROR_BACKOFF_MS",
        "NO_CHANNEL_TIMEOUT_IN_MS",
        "CLIENT_PRESENCE_WINDOW_MS",
    }
)


class _Basics(BaseSettings):
    """What the server works with: its database, its tokens, and what it keeps."""

    database_url: SecretStr = Field(
        validation_alias=one_of("DATABASE_URL", "ROWCAST_DATABASE_URL"),
        description="Postgres, or a pooler before it: `postgresql://user:password@host:5432/database`.",
    )
    direct_url: SecretStr | None = Field(
        None,
        validation_alias=one_of("ROWCAST_DIRECT_URL"),
        description="Postgres itself, for LISTEN and advisory locks, where `DATABASE_URL` leads to a pooler.",
    )
    jwks: SecretStr | None = Field(
        None,
        validation_alias=one_of("ROWCAST_JWKS"),
        description="The keys that tokens are signed with: a key set as JSON, its file's path, or the "
        "http(s) address where it is published.",
    )
    # Empty where tokens are verified by the key set alone.
    jwt_secret: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        validation_alias=one_of("ROWCAST_JWT_SECRET", "JWT_SECRET"),
        description="The secret that tokens are signed with (HS256, HS384, HS512), of at least 32 "
        "bytes; needed unless `ROWCAST_JWKS` has keys.",
    )
    jwt_secret_next: SecretStr = Field(
        SecretStr(""),
        validation_alias=one_of("ROWCAST_JWT_SECRET_NEXT"),
        description="A second secret that is accepted too, while the first is being replaced.",
    )
    jwt_claim_validators: Annotated[Mapping[str, Any], NoDecode] = Field(
        {},
        validation_alias=one_of("ROWCAST_JWT_CLAIM_VALIDATORS", "JWT_CLAIM_VALIDATORS"),
        description='Claims that tokens must have, and their values, such as `{"iss": '
        '"https://auth.example"}`.',
    )
    jwt_leeway: Duration = Field(
        0.0,
        validation_alias=one_of("ROWCAST_JWT_LEEWAY"),
        description="How much longer than they say tokens are good, for clocks that differ.",
    )
    host: str = Field(
        "0.0.0.0", validation_alias=one_of("ROWCAST_HOST"), description="The address to listen on."
    )
    port: int = Field(
        4000,
        ge=0,
        le=65535,
        validation_alias=one_of("PORT", "ROWCAST_PORT"),
        description="The port to listen on.",
    )
    roles: Annotated[tuple[str, ...], NoDecode] = Field(
        ("anon", "authenticated", "service_role"),
        validation_alias=one_of("ROWCAST_ROLES"),
        description="The roles that a token may stand for.",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        validation_alias=one_of("ROWCAST_API_KEYS"),
        description="Opaque keys and their roles: `sb_publishable_…=anon,sb_secret_…=service_role`.",
    )
    migrate: bool = Field(
        True,
        validation_alias=one_of("ROWCAST_MIGRATE"),
        description="Whether to migrate the database at the start; without it, run `rowcast migrate`.",
    )
    retention: Duration = Field(
        3600.0,
        validation_alias=one_of("ROWCAST_RETENTION"),
        description="How long changes are kept in the outbox.",
    )
    retention_size: Size = Field(
        1024**3,
        validation_alias=one_of("ROWCAST_RETENTION_SIZE"),
        description="How many bytes of changes are kept in the outbox.",
    )
    lease: Duration = Field(
        86400.0,
        validation_alias=one_of("ROWCAST_LEASE"),
        description="How long triggers go on capturing when no server runs.",
    )
    unlogged_outbox: bool = Field(
        False,
        validation_alias=one_of("ROWCAST_UNLOGGED_OUTBOX"),
        description="Whether capture may cost writers less, at the price that subscribers miss what "
        "was not sent when Postgres crashes: their channels end with `phx_error`.",
    )
    filter_timeout: Annotated[Duration, Field(gt=0)] = Field(
        0.25,
        validation_alias=one_of("ROWCAST_FILTER_TIMEOUT"),
        description="A filter that Postgres takes longer to judge is switched off.",
    )
    policy_timeout: Annotated[Duration, Field(gt=0)] = Field(
        0.25,
        validation_alias=one_of("ROWCAST_POLICY_TIMEOUT"),
        description="How long a table's policies may take to judge rows; what they are slow with is hidden.",
    )
    snapshot_timeout: Annotated[Duration, Field(gt=0)] = Field(
        60.0,
        validation_alias=one_of("ROWCAST_SNAPSHOT_TIMEOUT"),
        description="How long Postgres may take to read the rows of a snapshot.",
    )
    max_snapshots: int = Field(
        4,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_SNAPSHOTS"),
        description="How many snapshots are taken or handed out at a time, each on a connection of its own; "
        "others wait for their turn.",
    )
    open_deletes: bool = Field(
        False,
        validation_alias=one_of("ROWCAST_OPEN_DELETES"),
        description="Whether the primary key of a deleted row is told to all who may read its table, "
        "whatever policies say, as Supabase does.",
    )
    pool_size: int = Field(
        5,
        ge=1,
        validation_alias=one_of("ROWCAST_POOL_SIZE"),
        description="How many connections joins share; four more read, listen, judge filters and keep house.",
    )


class Settings(Allowances, _Basics):
    """Everything that can be set, and what it is. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, populate_by_name=True)

    drain_delay: Duration = Field(
        0.0,
        validation_alias=one_of("ROWCAST_DRAIN_DELAY"),
        description="How long a server that is told to stop says that it is not ready, and serves as before.",
    )
    drain_seconds: Duration = Field(
        10.0,
        validation_alias=one_of("ROWCAST_DRAIN_SECONDS"),
        description="Over how long it then closes its sockets, one after the other; `0` closes all at once.",
    )
    pages: Path | None = Field(
        None,
        validation_alias=one_of("ROWCAST_PAGES"),
        description="A folder whose files are served at `/pages/`, to everybody; nothing unless it is set.",
    )
    log_level: str = Field(
        "info",
        validation_alias=one_of("ROWCAST_LOG_LEVEL", "LOG_LEVEL"),
        description="What is logged: `debug`, `info`, `warning`, `error` or `critical`.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            source.env_vars = {name: _with_unit(name, value) for name, value in source.env_vars.items()}
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @field_validator("roles", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            tuple(role.strip() for role in value.split(",") if role.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("database_url", "direct_url")
    @classmethod
    def _postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        if (wrong := fault(value.get_secret_value())) is not None:
            raise ValueError(wrong)
        return value

    @field_validator("jwks")
    @classmethod
    def _key_set(cls, value: SecretStr | None) -> SecretStr | None:
        """None also for a set without keys, such as Supabase has where only secrets sign."""
        where = "" if value is None else value.get_secret_value().strip()
        return None if not where or Jwks(where).empty else value

    @field_validator("jwt_secret", "jwt_secret_next")
    @classmethod
    def _secret(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if value.get_secret_value():
            secret_key(value.get_secret_value())
        elif info.field_name == "jwt_secret" and info.data.get("jwks", value) is None:
            raise ValueError("is missing, and no keys are in ROWCAST_JWKS: one of the two is needed")
        return value

    @field_validator("api_keys")
    @classmethod
    def _opaque(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        unknown = set(parse_api_keys(value.get_secret_value()).values()) - set(info.data.get("roles", ()))
        if unknown and "roles" in info.data:
            raise ValueError(f"names roles that are not in ROWCAST_ROLES: {', '.join(sorted(unknown))}")
        return value

    @field_validator("jwt_claim_validators", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise ValueError('is no JSON object such as {"iss": "https://auth.example"}') from None

    @field_validator("pages", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        if value and not Path(value).is_dir():
            raise ValueError(f"is no folder: {value}")
        return value or None

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in ("debug", "info", "warning", "error", "critical"):
            raise ValueError("must be debug, info, warning, error or critical")
        return value.lower()

    @property
    def dsn(self) -> str:
        """Where short questions go: perhaps a pooler."""
        return self.database_url.get_secret_value()

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The secrets that tokens may be signed with."""
        secrets = (self.jwt_secret.get_secret_value(), self.jwt_secret_next.get_secret_value())
        return tuple(filter(None, secrets))

    @property
    def direct_dsn(self) -> str:
        """Where sessions go that listen and hold locks: Postgres itself."""
        return (self.direct_url or self.database_url).get_secret_value()


def load(**values: Any) -> Settings:
    """The settings of this process; ``values`` go before the environment. Raises SettingsError."""
    try:
        return Settings(**values)
    except ValidationError as error:
        faults = [f"  {_variable(fault['loc'])} {_text(fault)}" for fault in error.errors()]
        raise SettingsError("The settings cannot be used:\n" + "\n".join(faults)) from None


def _with_unit(name: str, value: str | None) -> str | None:
    return f"{value}ms" if name.upper() in _IN_MILLISECONDS and value and value.strip().isdigit() else value


def _variable(location: tuple[int | str, ...]) -> str:
    """The variable to set, for where pydantic says that a fault is."""
    name = str(location[0])
    field = Settings.model_fields.get(name)
    return variables(name)[0] if field is not None else name


def _text(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return "is missing"
    return str(fault["msg"]).removeprefix("Value error, ")


def variables(field: str) -> list[str]:
    """The variables that a setting is read from, the first that is set."""
    alias = Settings.model_fields[field].validation_alias
    assert isinstance(alias, AliasChoices)
    return [str(choice) for choice in alias.choices]
