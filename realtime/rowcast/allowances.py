"""Settings of what clients may take: sizes, numbers and times."""

from typing import Annotated, Any

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings

from rowcast.units import Duration, Size


def one_of(*names: str) -> Any:
    """The variables that a setting is read from, the first that is set."""
    return AliasChoices(*names)


class Allowances(BaseSettings):
    """What clients may take. Durations in seconds, sizes in bytes."""

    lane_limit: Size = Field(
        4 * 1024**2,
        validation_alias=one_of("ROWCAST_LANE_LIMIT"),
        description="How many unsent bytes a client may have waiting before it is disconnected.",
    )
    max_frame: Size = Field(
        5_000_000,
        validation_alias=one_of("ROWCAST_MAX_FRAME"),
        description="The greatest message that a client may send.",
    )
    max_change: Size = Field(
        1024**2,
        validation_alias=one_of("ROWCAST_MAX_CHANGE"),
        description="The greatest change that is sent whole. Of a greater one long values are left out.",
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_CONNECTIONS", "TENANT_MAX_CONCURRENT_USERS"),
        description="How many sockets may have a channel; any number when it is not set.",
    )
    max_channels: int = Field(
        100,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_CHANNELS", "TENANT_MAX_CHANNELS_PER_CLIENT"),
        description="How many channels a socket may have.",
    )
    max_bindings: int = Field(
        100,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_BINDINGS"),
        description="How many entries a join may have.",
    )
    max_entries: Size = Field(
        1024**2,
        validation_alias=one_of("ROWCAST_MAX_ENTRIES"),
        description="How many bytes the entries of all joins of a socket may have.",
    )
    max_topic: Size = Field(
        1024, validation_alias=one_of("ROWCAST_MAX_TOPIC"), description="How many bytes a topic may have."
    )
    max_refusals: int = Field(
        1000,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_REFUSALS"),
        description="How many refused joins of a socket may wait for their answer; "
        "`ROWCAST_LANE_LIMIT` bounds their bytes.",
    )
    max_joins_per_second: int = Field(
        100,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_JOINS_PER_SECOND", "TENANT_MAX_JOINS_PER_SECOND"),
        description="How often all clients together may join, as the average of the last minute.",
    )
    max_events_per_second: int = Field(
        100,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_EVENTS_PER_SECOND", "TENANT_MAX_EVENTS_PER_SECOND"),
        description="How many broadcasts a socket may send per second, as the average of the last minute, "
        "and how many whoever a token stands for by the REST API.",
    )
    max_payload: Size = Field(
        3_000_500,
        validation_alias=one_of("ROWCAST_MAX_PAYLOAD"),
        description="The greatest payload of a broadcast, and of what all channels of a socket track.",
    )
    max_body: Size = Field(
        8_000_000,
        validation_alias=one_of("ROWCAST_MAX_BODY"),
        description="The greatest body of a request to the REST API.",
    )
    silent_denials: bool = Field(
        False,
        validation_alias=one_of("ROWCAST_SILENT_DENIALS"),
        description="Whether a broadcast with `ack` that policies let nobody send is not answered, as with "
        "Supabase, instead of with an error.",
    )
    store_public: bool = Field(
        False,
        validation_alias=one_of("ROWCAST_STORE_PUBLIC"),
        description="Whether broadcasts of public channels may be stored and replayed, too. Anybody who may "
        "join one can then fill `realtime.messages`, within the limits of broadcasts.",
    )
    presence_enabled: bool = Field(
        False,
        validation_alias=one_of("ROWCAST_PRESENCE_ENABLED"),
        description="Whether each join is told who is present, as older clients expect, and not only one "
        "with `presence.enabled`.",
    )
    max_presence_calls: int = Field(
        5,
        ge=1,
        validation_alias=one_of("ROWCAST_MAX_PRESENCE_CALLS", "CLIENT_PRESENCE_MAX_CALLS"),
        description="How often a channel may track and untrack within `ROWCAST_PRESENCE_WINDOW`; one more "
        "ends it.",
    )
    presence_window: Annotated[Duration, Field(gt=0)] = Field(
        30.0,
        validation_alias=one_of("ROWCAST_PRESENCE_WINDOW", "CLIENT_PRESENCE_WINDOW_MS"),
        description="How long that window is; it begins with the first call.",
    )
    max_presence_key: Size = Field(
        1024,
        validation_alias=one_of("ROWCAST_MAX_PRESENCE_KEY"),
        description="How many bytes a presence key may have.",
    )
    private_only: bool = Field(
        False,
        validation_alias=one_of("ROWCAST_PRIVATE_ONLY"),
        description="Whether public channels are refused.",
    )
    idle_timeout: Duration = Field(
        60.0,
        validation_alias=one_of("ROWCAST_IDLE_TIMEOUT"),
        description="A socket that says nothing for so long is closed.",
    )
    no_channel_timeout: Duration = Field(
        600.0,
        validation_alias=one_of("ROWCAST_NO_CHANNEL_TIMEOUT", "NO_CHANNEL_TIMEOUT_IN_MS"),
        description="A socket that has no channel for so long is closed.",
    )
    handshake_timeout: Duration = Field(
        10.0,
        validation_alias=one_of("ROWCAST_HANDSHAKE_TIMEOUT"),
        description="A connection whose request is not there by then is dropped.",
    )
    handshake_delay: Duration = Field(
        2.0,
        validation_alias=one_of("ROWCAST_HANDSHAKE_DELAY", "CONNECT_ERROR_BACKOFF_MS"),
        description="How late a refused handshake is answered.",
    )
    refusal_delay: Duration = Field(
        5.0,
        validation_alias=one_of("ROWCAST_REFUSAL_DELAY", "CHANNEL_ERROR_BACKOFF_MS"),
        description="How late a refused join is answered.",
    )
