"""Settings, from the environment or a .env file. Wrong ones stop the start, with every fault named at
once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from pydantic import (
    AliasChoices,
    BeforeValidator,
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

from rowcast.auth.jwks import Jwks
from rowcast.auth.keys import secret_key
from rowcast.errors import SettingsError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE: Final = re.compile(r"(\d+)\s*(B|kB|MB|GB)?", re.IGNORECASE)
_BYTES: Final = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
# One host or several, each perhaps with a port; asyncpg takes both.
_HOSTS: Final = re.compile(r"(\[[^\]]*\]|[^:\[\],@]*)(:\d+)?(,(\[[^\]]*\]|[^:\[\],@]*)(:\d+)?)*")
#: Supabase's names whose values are milliseconds, without a unit.
_IN_MILLISECONDS: Final = frozenset(
    {"CONNECT_ERROR_BACKOFF_MS", "CHANNEL_ERROR_BACKOFF_MS", "NO_CHANNEL_TIMEOUT_IN_MS"}
)
_HIDDEN: Final = "********"


def parse_duration(value: Any) -> Any:
    """Seconds, from a number or a text such as ``90s``, ``250ms``, ``1h``."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError("is no duration: write a number with ms, s, m, h or d, such as 90s")
        return float(match[1]) * _SECONDS[match[2]]
    return value


def parse_size(value: Any) -> Any:
    """Bytes, from a number or a text such as ``512kB``, ``1GB``."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError("is no size: write a whole number with B, kB, MB or GB, such as 64MB")
        return int(match[1]) * _BYTES[(match[2] or "B").lower()]
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]


def _from(*names: str) -> Any:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """Everything that can be set. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, populate_by_name=True)

    database_url: SecretStr = Field(validation_alias=_from("DATABASE_URL", "ROWCAST_DATABASE_URL"))
    direct_url: SecretStr | None = Field(None, validation_alias=_from("ROWCAST_DIRECT_URL"))
    jwks: SecretStr | None = Field(None, validation_alias=_from("ROWCAST_JWKS"))
    # Empty where tokens are verified by the key set alone.
    jwt_secret: SecretStr = Field(
        SecretStr(""), validate_default=True, validation_alias=_from("ROWCAST_JWT_SECRET", "JWT_SECRET")
    )
    jwt_secret_next: SecretStr = Field(SecretStr(""), validation_alias=_from("ROWCAST_JWT_SECRET_NEXT"))
    jwt_claim_validators: Annotated[Mapping[str, Any], NoDecode] = Field(
        {}, validation_alias=_from("ROWCAST_JWT_CLAIM_VALIDATORS", "JWT_CLAIM_VALIDATORS")
    )
    jwt_leeway: Duration = Field(0.0, validation_alias=_from("ROWCAST_JWT_LEEWAY"))
    host: str = Field("0.0.0.0", validation_alias=_from("ROWCAST_HOST"))
    port: int = Field(4000, ge=0, le=65535, validation_alias=_from("PORT", "ROWCAST_PORT"))
    roles: Annotated[tuple[str, ...], NoDecode] = Field(
        ("anon", "authenticated", "service_role"), validation_alias=_from("ROWCAST_ROLES")
    )
    migrate: bool = Field(True, validation_alias=_from("ROWCAST_MIGRATE"))
    retention: Duration = Field(3600.0, validation_alias=_from("ROWCAST_RETENTION"))
    retention_size: Size = Field(1024**3, validation_alias=_from("ROWCAST_RETENTION_SIZE"))
    lease: Duration = Field(86400.0, validation_alias=_from("ROWCAST_LEASE"))
    unlogged_outbox: bool = Field(False, validation_alias=_from("ROWCAST_UNLOGGED_OUTBOX"))
    filter_timeout: Annotated[Duration, Field(gt=0)] = Field(
        0.25, validation_alias=_from("ROWCAST_FILTER_TIMEOUT")
    )
    pool_size: int = Field(5, ge=1, validation_alias=_from("ROWCAST_POOL_SIZE"))
    lane_limit: Size = Field(4 * 1024**2, validation_alias=_from("ROWCAST_LANE_LIMIT"))
    max_frame: Size = Field(5_000_000, validation_alias=_from("ROWCAST_MAX_FRAME"))
    max_change: Size = Field(1024**2, validation_alias=_from("ROWCAST_MAX_CHANGE"))
    max_connections: int | None = Field(
        None, ge=1, validation_alias=_from("ROWCAST_MAX_CONNECTIONS", "TENANT_MAX_CONCURRENT_USERS")
    )
    max_channels: int = Field(
        100, ge=1, validation_alias=_from("ROWCAST_MAX_CHANNELS", "TENANT_MAX_CHANNELS_PER_CLIENT")
    )
    max_bindings: int = Field(100, ge=1, validation_alias=_from("ROWCAST_MAX_BINDINGS"))
    max_entries: Size = Field(1024**2, validation_alias=_from("ROWCAST_MAX_ENTRIES"))
    max_topic: Size = Field(1024, validation_alias=_from("ROWCAST_MAX_TOPIC"))
    max_refusals: int = Field(1000, ge=1, validation_alias=_from("ROWCAST_MAX_REFUSALS"))
    max_joins_per_second: int = Field(
        100, ge=1, validation_alias=_from("ROWCAST_MAX_JOINS_PER_SECOND", "TENANT_MAX_JOINS_PER_SECOND")
    )
    private_only: bool = Field(False, validation_alias=_from("ROWCAST_PRIVATE_ONLY"))
    idle_timeout: Duration = Field(60.0, validation_alias=_from("ROWCAST_IDLE_TIMEOUT"))
    no_channel_timeout: Duration = Field(
        600.0, validation_alias=_from("ROWCAST_NO_CHANNEL_TIMEOUT", "NO_CHANNEL_TIMEOUT_IN_MS")
    )
    handshake_timeout: Duration = Field(10.0, validation_alias=_from("ROWCAST_HANDSHAKE_TIMEOUT"))
    handshake_delay: Duration = Field(
        2.0, validation_alias=_from("ROWCAST_HANDSHAKE_DELAY", "CONNECT_ERROR_BACKOFF_MS")
    )
    refusal_delay: Duration = Field(
        5.0, validation_alias=_from("ROWCAST_REFUSAL_DELAY", "CHANNEL_ERROR_BACKOFF_MS")
    )
    log_level: str = Field("info", validation_alias=_from("ROWCAST_LOG_LEVEL", "LOG_LEVEL"))

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
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:  # its text would hold a piece of the address
            parts = urlsplit("")
        if parts.scheme not in ("postgres", "postgresql"):
            raise ValueError("must be an address such as postgresql://user:password@host:5432/database")
        # An unescaped / # or ? ends the host early: the password would be taken for a path, and shown as one.
        if not _HOSTS.fullmatch(parts.netloc.rpartition("@")[2]) or "@" in parts.path or parts.fragment:
            raise ValueError(
                "has a wrong host or port. In a password, write / as %2F, # as %23, ? as %3F, @ as %40"
            )
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

    @field_validator("jwt_claim_validators", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise ValueError('is no JSON object such as {"iss": "https://auth.example"}') from None

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
    return _names(name)[0] if field is not None else name


def _text(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return "is missing"
    return str(fault["msg"]).removeprefix("Value error, ")


def _names(field: str) -> list[str]:
    alias = Settings.model_fields[field].validation_alias
    assert isinstance(alias, AliasChoices)
    return [str(choice) for choice in alias.choices]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it stands: secrets hidden, and where it came from."""

    name: str
    variable: str
    value: str
    source: str


def describe(settings: Settings, environment: Mapping[str, str]) -> list[Setting]:
    """Every setting, in order. ``environment`` is the process's own, to tell it from a .env file."""
    present = {name.upper() for name in environment}
    shown = []
    for name in Settings.model_fields:
        names = _names(name)
        used = next((variable for variable in names if variable.upper() in present), None)
        if used is not None:
            source = f"environment, {used}"
        else:
            source = ".env file or argument" if name in settings.model_fields_set else "default"
        shown.append(Setting(name, names[0], _show(getattr(settings, name)), source))
    return shown


def _show(value: Any) -> str:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        parts = urlsplit(text)
        if parts.scheme not in ("postgres", "postgresql"):
            return _HIDDEN if text else ""
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.username}:{_HIDDEN}@" if parts.username else ""
        # A query may hold a password, too.
        return urlunsplit((parts.scheme, user + host, parts.path, "", ""))
    return ",".join(value) if isinstance(value, tuple) else str(value)
