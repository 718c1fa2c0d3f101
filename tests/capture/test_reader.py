"""What the reader gives, and in which order, where it can be laid out by hand."""

import asyncpg
import pytest

from rowcast.capture.reader import Reader
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

TABLES = """
create table heard (id int primary key);
create table silent (id int primary key);
grant select on heard, silent to service_role;
alter publication supabase_realtime add table heard, silent;
"""


async def test_a_transaction_stands_where_its_last_change_does_even_if_that_is_left_out(
    capturing: asyncpg.Connection, migrated: str
) -> None:
    await capturing.execute(TABLES)
    silent = await capturing.fetchval(
        "select relation from rowcast.captured where relid = 'silent'::regclass"
    )
    whole, part = Reader(), Reader()
    for reader in (whole, part):
        await reader.open(capturing)
    other = await asyncpg.connect(migrated)
    first = capturing.transaction()
    await first.start()
    await capturing.execute("insert into heard values (1)")
    await other.execute("insert into heard values (2)")
    await capturing.execute("insert into silent values (1)")
    await first.commit()
    given = [row async for page in whole.read(other) for row in page.rows]
    (page,) = [page async for page in part.read(other, [silent])]
    assert [row.record for row in given] == ['{"id":2}', '{"id":1}', '{"id":1}']
    assert page.rows == [row for row in given if row.relation != silent]
    assert page.changes == 3
    assert part.place is not None
    assert part.place.end is None
    await other.close()


async def test_a_page_with_nothing_that_is_heard_moves_the_place_all_the_same(
    capturing: asyncpg.Connection,
) -> None:
    await capturing.execute(TABLES)
    silent = await capturing.fetchval(
        "select relation from rowcast.captured where relid = 'silent'::regclass"
    )
    reader = Reader()
    await reader.open(capturing)
    await capturing.execute("insert into silent values (1)")
    assert [len(page.rows) async for page in reader.read(capturing, [silent])] == [0]
    assert [page async for page in reader.read(capturing)] == []


async def test_whoever_subscribes_to_a_table_that_was_left_out_gets_the_next_change(migrated: str) -> None:
    connection = await asyncpg.connect(migrated)
    await connection.execute(TABLES)
    async with streaming(migrated) as stream:
        heard = await subscribed(stream, "heard")
        for number in range(3):
            # The second of these is left out by the read, since the first was nobody's.
            await connection.execute("insert into silent values ($1)", number)
            await connection.execute("insert into heard values ($1)", number)
            await heard.until(lambda number=number: len(heard.changes) > number)  # type: ignore[misc]
        assert len(stream._live._silent) == 1
        silent = await subscribed(stream, "silent")
        await connection.execute("insert into silent values (3)")
        await silent.until(lambda: len(silent.changes) > 0)
        assert silent.changes[0]["record"] == {"id": 3}
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "insert into heard select g from generate_series(10, 15) as g",
        "update heard set id = id + 100",
        "delete from heard",
    ],
)
async def test_a_change_is_ordered_by_its_own_number_where_no_statement_can_nest(
    capturing: asyncpg.Connection, statement: str
) -> None:
    await capturing.execute(TABLES)
    await capturing.execute("insert into heard select g from generate_series(1, 5) as g")
    reader = Reader()
    await reader.open(capturing)
    await capturing.execute(statement)
    rows = [row async for page in reader.read(capturing) for row in page.rows]
    assert len(rows) > 1
    assert [row.ord for row in rows] == [row.seq for row in rows]
