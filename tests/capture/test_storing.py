"""Broadcasts are written together and in order, and each sender is told what became of its own."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from rowcast.capture import storing
from rowcast.capture.storing import AWAY, FULL, REFUSED_BY, STOPPED, UNCAPTURED, UNFIT, UNKNOWN, Storing
from rowcast.db.pool import create_pool
from rowcast.dev.postgres import free_port
from rowcast.model.message import Message
from support.pgbouncer import pgbouncer
from support.proxies import proxied
from support.waiting import until

pytestmark = pytest.mark.anyio


def message(event: str, payload: bytes = b"{}", *, raw: bool = False, topic: str = "room") -> Message:
    return Message(str(uuid.uuid4()), topic, True, event, payload, raw)


@contextlib.asynccontextmanager
async def writing(dsn: str, *, captured: bool = True) -> AsyncIterator[Storing]:
    pool = await create_pool(dsn, 2)
    kept = Storing(pool, lambda: captured)
    running = asyncio.create_task(kept.run())
    try:
        yield kept
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        pool.terminate()


async def stored(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("select event from realtime.messages order by inserted_at, ctid")
    await connection.close()
    return [row["event"] for row in rows]


async def test_what_is_put_is_written_in_order_whatever_its_kind(migrated: str) -> None:
    messages = [message(str(number), b"{}", raw=number % 7 == 3) for number in range(1200)]
    async with writing(migrated) as kept:
        assert await kept.store(messages) is None
    assert await stored(migrated) == [str(number) for number in range(1200)]


async def test_one_that_does_not_fit_takes_no_other_with_it(migrated: str) -> None:
    told: dict[str, str | None] = {}
    async with writing(migrated) as kept:
        for number in range(9):
            one = message(str(number), b"1e200000" if number in (0, 5) else b"{}")
            kept.put(one, lambda reason, number=number: told.__setitem__(str(number), reason))  # type: ignore[misc]
        assert await kept.store([message("last")]) is None
        assert await kept.store([]) is None
    assert told == {str(number): UNFIT if number in (0, 5) else None for number in range(9)}
    assert await stored(migrated) == ["1", "2", "3", "4", "6", "7", "8", "last"]


async def test_no_statement_is_spent_on_a_nul(migrated: str) -> None:
    async with writing(f"postgresql://a:b@127.0.0.1:{free_port()}/a") as kept:
        for one in (
            message("e", b'{"a":"b\\u0000"}'),
            message("e", b'"\\\\\\u0000"'),
            message("a\0"),
            message("e", topic="\0"),
        ):
            assert await kept.store([one]) == UNFIT
    async with writing(migrated) as kept:
        assert await kept.store([message("e", b'"\\\\u0000"'), message("e", b"\\u0000", raw=True)]) is None


async def test_what_keeps_all_from_being_written_is_asked_for_once(
    migrated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await asyncpg.connect(migrated)
    impatient = f"{migrated}{'&' if '?' in migrated else '?'}options=-c%20statement_timeout%3D100"
    async with writing(impatient) as kept, connection.transaction():
        await connection.execute("lock table realtime.messages")
        assert await kept.store([message("e") for _ in range(5)]) == STOPPED
    assert "".join(capsys.readouterr()).count("QueryCanceledError") == 1
    await connection.close()


async def test_what_a_silent_database_was_sent_is_not_known_and_the_next_is_written(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_SECONDS", 0.5)
    async with proxied(migrated) as proxy, writing(proxy.address) as kept:
        assert await kept.store([message("before")]) is None
        proxy.silence()
        assert await kept.store([message("lost")]) == UNKNOWN
        assert await kept.store([message("after")]) is None
    assert await stored(migrated) == ["before", "after"]


async def test_long_names_count_for_what_may_wait(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_MAX_WAITING", 10)
    async with writing(migrated) as kept:
        assert await kept.store([message("e" * 9)]) == FULL


async def test_what_the_database_refuses_is_told_without_its_words(
    migrated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await asyncpg.connect(migrated)
    for name in await connection.fetch(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass"
    ):
        await connection.execute(f"drop table {name[0]}")
    await connection.close()
    async with writing(migrated) as kept:
        assert await kept.store([message("e", b'"my secret"')]) == REFUSED_BY
    assert "secret" not in "".join(capsys.readouterr())


async def test_where_nothing_can_be_stored_each_is_told_why(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with writing(f"postgresql://a:b@127.0.0.1:{free_port()}/a") as kept:
        assert await kept.store([message("e"), message("e")]) == AWAY
        monkeypatch.setattr(storing, "_MAX_WAITING", 10)
        assert await kept.store([message("e", b"a" * 11, raw=True)]) == FULL
    async with writing(migrated, captured=False) as kept:
        assert await kept.store([message("e")]) == UNCAPTURED
    assert await stored(migrated) == []


async def test_what_is_on_its_way_when_the_connection_ends_is_not_known(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    async with writing(migrated) as kept, connection.transaction():
        await connection.execute("lock table realtime.messages")
        storing_ = asyncio.create_task(kept.store([message("e")]))
        ended = """select pg_terminate_backend(pid) from pg_locks
                   where relation = 'realtime.messages'::regclass and not granted
                   and database = (select oid from pg_database where datname = current_database())"""

        async def is_ended() -> bool:
            return bool(await connection.fetch(ended))

        await until(is_ended)
        assert await storing_ == UNKNOWN
    await connection.close()


async def test_behind_a_pooler_of_transactions_all_is_stored(migrated: str) -> None:
    with pgbouncer(migrated) as pooler:
        async with writing(pooler.address) as kept, writing(pooler.address) as other:
            rounds = 20
            given = await asyncio.gather(
                *(one.store([message("e")]) for one in (kept, other) for _ in range(rounds))
            )
        assert given == [None] * 2 * rounds
    assert len(await stored(migrated)) == 2 * rounds
