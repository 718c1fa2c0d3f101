"""Where positions are kept: in files, and in Postgres beside the effects they belong to."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import asyncpg
import pytest

from rowcast_client import FileStore, PositionStore, PostgresStore, StoreError, UsageError

pytestmark = pytest.mark.anyio

_SAVES = """
import asyncio, itertools, sys
from rowcast_client import FileStore

async def main():
    store = FileStore(sys.argv[1])
    for number in itertools.count():
        await store.save("todos", f"{number}." + "x" * 5000)
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_file_holds_the_last_position_of_each_key(tmp_path: Path) -> None:
    store: PositionStore = FileStore(tmp_path / "made" / "here")
    keys = ["todos", "realtime:a/../b", "..", "Ü" * 300, "Ü" * 299 + "x"]
    for key in keys:
        assert await store.load(key) is None
        await store.save(key, "old")
        await store.save(key, f"position of {key}")
    again = FileStore(str(tmp_path / "made" / "here"))
    assert [await again.load(key) for key in keys] == [f"position of {key}" for key in keys]
    assert len(list((tmp_path / "made" / "here").iterdir())) == len(keys)


async def test_a_file_that_holds_something_else_is_no_beginning(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.save("todos", "p1")
    file = tmp_path / "todos.json"
    for text in ("", "[]", '{"key": "other", "position": "p"}', '{"key": "todos", "position": 5}'):
        file.write_text(text)
        with pytest.raises(StoreError, match="begin at the present"):
            await store.load("todos")


async def test_a_process_that_is_killed_leaves_a_position_that_it_had_saved(tmp_path: Path) -> None:
    for lines in (1, 20):
        directory = str(tmp_path / str(lines))
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", _SAVES, directory, stdout=PIPE)
        assert program.stdout is not None
        for _ in range(lines):
            saved = int(await program.stdout.readline())
        program.kill()
        printed, _ = await program.communicate()
        saved = int((printed.split() or [str(saved).encode()])[-1])
        position = await FileStore(directory).load("todos")
        assert position in [f"{number}." + "x" * 5000 for number in (saved, saved + 1)]


async def test_a_table_is_made_and_holds_the_last_position_of_each_key(database: str) -> None:
    store = PostgresStore(database)
    pool = await asyncpg.create_pool(database, min_size=1, max_size=4)
    connection = await asyncpg.connect(database)
    try:
        assert await asyncio.gather(*(PostgresStore(pool).load("a") for _ in range(4))) == [None] * 4
        await store.save("a", "p1")
        await PostgresStore(pool).save("a", "p2")
        await PostgresStore(connection).save("b", "p3")
        assert [await store.load("a"), await store.load("b"), await store.load("c")] == ["p2", "p3", None]
        named = PostgresStore(connection, table="Positions_2")
        assert await named.load("a") is None
        await named.save("a", "p4")
        assert await connection.fetchval('select position from public."Positions_2"') == "p4"
    finally:
        await connection.close()
        await pool.close()


async def test_a_position_is_committed_or_rolled_back_with_its_effect(database: str) -> None:
    store = PostgresStore(database)
    assert await store.load("worker") is None
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("create table effects (id int)")
        for number, fault in ((1, None), (2, ZeroDivisionError())):
            with contextlib.suppress(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("insert into effects values ($1)", number)
                    await store.save("worker", f"p{number}", connection=connection)
                    if fault is not None:
                        raise fault
        assert await connection.fetchval("select array_agg(id) from effects") == [1]
        assert await store.load("worker") == "p1"
    finally:
        await connection.close()


async def test_a_role_that_may_not_make_the_table_is_told_how_it_is_made(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("set role pg_monitor")
        with pytest.raises(StoreError, match='create schema if not exists "rowcast_client"; create table'):
            await PostgresStore(connection).load("a")
    finally:
        await connection.close()


def test_a_table_of_another_kind_of_name_is_refused() -> None:
    for name in ("", "a.b.c", 'a"b', "a;b"):
        with pytest.raises(UsageError):
            PostgresStore("postgresql://localhost/x", table=name)
    with pytest.raises(UsageError):
        FileStore("")
