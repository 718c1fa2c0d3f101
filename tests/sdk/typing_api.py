"""How the SDK is used, for the type checker alone: each line must check, each ignored one must not."""

from datetime import datetime
from typing import Any, assert_type

from rowcast_client import (
    Broadcast,
    Change,
    Channel,
    Client,
    FileStore,
    Gap,
    PositionStore,
    PostgresStore,
    Presence,
    PresenceEvent,
    RowcastError,
    Rows,
    Snapshot,
    SubscribeStatus,
    SystemMessage,
    Transaction,
    create_client,
)


def on_change(change: Change) -> None:
    assert_type(change.new, dict[str, Any])
    assert_type(change.commit_timestamp, datetime | None)
    assert_type(change["old"], Any)


async def on_change_async(change: Change) -> None: ...


def on_status(status: SubscribeStatus, error: RowcastError | None) -> None: ...


def on_status_short(status: SubscribeStatus) -> None: ...


def on_system(message: SystemMessage) -> None: ...


async def on_rows(snapshot: Snapshot) -> None:
    assert_type(snapshot.rows, list[dict[str, Any]])


def on_transaction(transaction: Transaction) -> None:
    assert_type(transaction.changes, tuple[Change, ...])


def on_gap(gap: Gap) -> None:
    assert_type(gap.position, str | None)


def on_broadcast(broadcast: Broadcast) -> None:
    assert_type(broadcast.id, str | None)
    assert_type(broadcast.payload, Any)


async def on_presence(event: PresenceEvent) -> None:
    assert_type(event.joined, tuple[Presence, ...])
    assert_type(event.current[0].payload, dict[str, Any])


async def token() -> str:
    return "token"


async def usage() -> None:
    async with create_client("http://localhost", lambda: "key", token=token, token_warning=30) as client:
        assert_type(client, Client)
        channel = client.channel("a")
        assert_type(channel.on("postgres_changes", {"event": "*", "table": "t"}, on_change), Channel)
        channel.on("postgres_changes", on_change_async, event="INSERT", schema="public", table="t")
        channel.on("system", on_system).on("system", {}, on_system)
        assert_type(channel.subscribe(on_status), Channel)
        assert_type(await channel.subscribe(on_status_short), Channel)
        assert_type(client.channel("b", private=True).private, bool)
        channel.on("postgres_changes", on_change, table="t", on_snapshot=on_rows, leave=True, truncate=True)
        channel.on("postgres_changes", {"table": "t", "snapshot": {"limit": 5}}, print, on_snapshot=on_rows)
        channel.on("transaction", on_transaction).on("transaction", [{"table": "t"}], on_transaction)
        channel.on("gap", on_gap)
        store: PositionStore = FileStore("/tmp")
        channel.subscribe(resume=store, key="worker", save_every=None)
        channel.subscribe(resume=PostgresStore("postgresql://localhost"))
        assert_type(await channel.subscribe(resume="position"), Channel)
        assert_type(await channel.rows("t", filter="a=eq.1", key=["a", "b"]).ready(), Rows)
        async for row in channel.rows("t"):
            assert_type((row.old, row.new), tuple[dict[str, Any] | None, dict[str, Any] | None])
        channel.on("broadcast", on_broadcast).on("broadcast", on_broadcast, event="cursor")
        channel.on("broadcast", {"event": "cursor"}, on_broadcast).on("broadcast", {}, on_broadcast)
        channel.on("presence", on_presence).on("presence", on_presence, event="sync")
        channel.on("presence", {"event": "join"}, on_presence)
        assert_type(await channel.send("cursor", {"x": 1}), None)
        await channel.send("bytes", b"\0", timeout=1)
        await channel.send("empty")
        await channel.track({"name": "ann"})
        await channel.untrack()
        assert_type(channel.presence_state(), dict[str, list[Presence]])
        client.channel("c", private=True, ack=True, echo=True, presence_key="ann")
        client.channel("c", private=True, replay={"since": datetime.now(), "limit": 5})
        client.set_token("token")
        client.set_token(token)
        client.channel("b", True)  # type: ignore[call-arg]
        client.channel("b", private="yes")  # type: ignore[arg-type]
        client.set_token(None)  # type: ignore[arg-type]
        channel.on("postgres_changes", on_change, event="UPSERT", table="t")  # type: ignore[call-overload]
        channel.on("postgres_changes", on_system, table="t")  # type: ignore[call-overload]
        channel.on("gap", on_change)  # type: ignore[call-overload]
        channel.on("postgres_changes", on_change, table="t", snapshot={"size": 1})  # type: ignore[call-overload]
        channel.subscribe(resume=client)  # type: ignore[arg-type]
        channel.on("broadcast", on_change)  # type: ignore[call-overload]
        channel.on("presence", on_presence, event="gone")  # type: ignore[call-overload]
        channel.on("presence", {"event": "gone"}, on_presence)  # type: ignore[call-overload]
        await channel.track("name")  # type: ignore[arg-type]
        client.channel("b", private=True, replay={"until": 1})  # type: ignore[arg-type]
        create_client("http://localhost", 5)  # type: ignore[arg-type]
