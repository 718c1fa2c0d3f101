"""Connections that fall silent when Postgres is to judge filters and policies: nobody misses a row for it."""

import asyncpg
import pytest

from rowcast.model.claims import Claims
from support.proxies import proxied
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

ANON = Claims(role="anon", expires_at=2e9, raw={"role": "anon"})
TABLE = """
create table things (id int primary key, name text);
grant select on things to anon, service_role;
alter table things enable row level security;
create policy seen on things for select to anon using (name <> 'secret');
alter publication supabase_realtime add table things;
select rowcast.renew_lease(3600);
"""


async def test_rows_that_are_judged_arrive_over_the_next_connection(migrated: str) -> None:
    writer = await asyncpg.connect(migrated)
    await writer.execute(TABLE)
    async with proxied(migrated) as proxy, streaming(proxy.address, patience=1.0) as stream:
        filtered = await subscribed(stream, "things", "name=like.a%")
        judged = await subscribed(stream, "things", claims=ANON)
        await writer.execute("insert into things values (0, 'a'), (1, 'secret')")
        for number in range(2, 4):
            for kept in (filtered, judged):
                await kept.until(lambda kept=kept, number=number: len(kept.changes) == number - 1)  # type: ignore[misc]
            # Listener, reader, keeper, and those that ask.
            await proxy.until_open(5)
            proxy.silence()
            await writer.execute("insert into things values ($1, 'a'), ($2, 'secret')", number, -number)
        for kept in (filtered, judged):
            await kept.until(lambda kept=kept: len(kept.changes) == 3)  # type: ignore[misc]
            assert [change["record"]["id"] for change in kept.changes] == [0, 2, 3]
            assert (kept.losses, kept.told) == (0, [])
    await writer.close()
