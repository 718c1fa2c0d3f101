"""What hostile owners of published tables, and holders of tokens, may try."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import structlog
from structlog.testing import capture_logs

from rowcast.auth.channels import Channels
from rowcast.db.pool import create_pool
from rowcast.db.roles import RoleUnavailable, as_role, undone
from rowcast.model.allowed import Allowed, ChannelRequest, ChannelUnavailable
from rowcast.model.claims import Claims
from support.streams import streaming, subscribed

pytestmark = pytest.mark.anyio

ANON = Claims("anon", 2e9, {"role": "anon"})


@pytest.fixture
async def owner(migrated: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection, in a database with a table ``secrets`` that nobody may read, and one ``evil``, whose
    column ``d`` has a type that calls ``trick``. Until that is replaced, it does nothing."""
    connection = await asyncpg.connect(migrated)
    await connection.execute("""
        create table secrets (n int);
        insert into secrets values (42);
        create table written (n int);
        grant all on written to public;
        create function trick(text) returns bool language sql as 'select true';
        create domain tricky as text check (trick(value));
        create table evil (id int primary key, d tricky);
        grant select on evil to anon, authenticated, service_role;
        alter publication supabase_realtime add table evil;
    """)
    yield connection
    await connection.close()


async def set_trick(owner: asyncpg.Connection, body: str) -> None:
    """Have ``trick`` do something under a subscriber's role; it says false where that raised an error.

    With a text ``xb`` it does nothing.
    """
    await owner.execute(f"""
        create or replace function trick(text) returns bool language plpgsql as $$
        begin
          if current_user in ('anon', 'authenticated', 'service_role') and $1 <> 'xb' then
            begin {body}; exception when others then return false; end;
          end if;
          return true;
        end $$
    """)


WRITES = ["insert into written values (1)", "create temp table mine ()"]
ESCAPES = [
    "perform set_config('role', 'none', true); perform from secrets",
    "execute 'reset role'; perform from secrets",
    "execute format('set role %I', session_user); perform from secrets",
    "execute 'set session authorization default'; perform from secrets",
    "perform from secrets",
    *WRITES,
]


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("filter_", ["d=eq.x", "d=in.(x,y)"])
async def test_a_type_that_a_filter_casts_to_gets_no_further_than_the_role(
    migrated: str, owner: asyncpg.Connection, escape: str, filter_: str
) -> None:
    await set_trick(owner, escape)
    refusal = None
    async with streaming(migrated) as stream:
        try:
            await subscribed(stream, "evil", filter_, claims=ANON)
        except AssertionError as error:
            refusal = str(error)
    assert "violates check constraint" in str(refusal)


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_type_that_rows_are_read_with_gets_no_further_than_the_role(
    migrated: str, owner: asyncpg.Connection, escape: str
) -> None:
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "evil", "d=like.x%", claims=ANON)
        await set_trick(owner, escape)
        await owner.execute("insert into evil values (1, 'xa')")
        await owner.execute("insert into evil values (2, 'xb')")
        await kept.until(lambda: bool(kept.changes) and kept.changes[-1]["record"]["id"] == 2)
        assert len(kept.changes) == 1
    assert await owner.fetchval("select count(*) from written") == 0


@pytest.mark.parametrize("escape", ESCAPES)
async def test_a_policy_on_private_channels_gets_no_further_than_the_role(
    migrated: str, owner: asyncpg.Connection, escape: str
) -> None:
    await owner.execute("""
        create policy reads on realtime.messages for select using (trick(topic));
        create policy writes on realtime.messages for insert with check (trick(topic));
    """)
    request = ChannelRequest("room", ANON, {})
    pool = await create_pool(migrated, 1)
    channels = Channels(pool, ["anon"])
    await set_trick(owner, "null")
    assert await channels.may_read(request, presence=True) == Allowed(True, True)
    await set_trick(owner, escape)
    assert await channels.may_read(request, presence=True) == Allowed()
    writes = await channels.may_write(request)
    # What is written there is undone, and may be.
    assert not writes or escape in WRITES
    async with pool.acquire() as connection:
        await is_itself(connection)
    pool.terminate()
    assert await owner.fetchval("select count(*) from written") == 0


async def is_itself(connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy) -> None:
    """Nothing is left in a session of what was tried there."""
    found = await connection.fetchrow("""
        select current_user = session_user, current_setting('role'), current_setting('search_path'),
          coalesce(current_setting('request.jwt.claims', true), ''),
          coalesce(current_setting('left.behind', true), ''),
          current_setting('statement_timeout'), current_setting('transaction_read_only'),
          (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
          (select count(*) from pg_prepared_statements where from_sql),
          (select count(*) from pg_listening_channels()),
          (select count(*) from pg_cursors where is_holdable),
          (select count(*) from pg_class where relnamespace = pg_my_temp_schema()),
          (select count(*) from pg_proc where pronamespace = pg_my_temp_schema())
    """)
    assert found is not None
    assert tuple(found) == (True, "none", '"$user", public', "", "", "0", "off", 0, 0, 0, 0, 0, 0)


LEFTOVERS = [
    "perform set_config('left.behind', 'x', false)",
    "perform pg_advisory_lock(7)",
    "execute 'prepare mine as select 1'",
    "execute 'listen mine'",
    "execute 'declare c cursor with hold for select 1'",
    "perform set_config('search_path', 'evil', false), set_config('statement_timeout', '1', false)",
    "perform 1 / 0",
]


@pytest.mark.parametrize("leftover", LEFTOVERS)
async def test_nothing_that_code_of_others_leaves_in_a_session_of_ours_stays(
    migrated: str, owner: asyncpg.Connection, leftover: str
) -> None:
    await set_trick(owner, leftover)
    connection = await asyncpg.connect(migrated, statement_cache_size=0)
    await connection.execute("select 1")
    async with undone(connection):
        asked = await as_role(connection, "anon", "select public.trick('x')", [], ["bool"])
        await connection.fetch(asked, "anon")
    await is_itself(connection)
    await connection.close()


async def test_what_may_not_be_known_of_a_row_reaches_no_log(
    migrated: str, owner: asyncpg.Connection
) -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        await hear_of_a_row_that_raises(migrated, owner)
    assert "condition_failed" in [log["event"] for log in logs]
    assert "a-very-secret-text" not in str(logs)


async def hear_of_a_row_that_raises(migrated: str, owner: asyncpg.Connection) -> None:
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "evil", "d=like._%", claims=ANON)
        await owner.execute("""
            create or replace function trick(text) returns bool language plpgsql as $$
            begin
              if current_user = 'anon' and $1 <> 'open' then
                raise 'the row says %', $1 using detail = $1, hint = $1;
              end if;
              return true;
            end $$
        """)
        await owner.execute("insert into evil values (1, 'a-very-secret-text')")
        await stream._present.settle()
        await owner.execute("insert into evil values (2, 'open')")
        await kept.until(lambda: bool(kept.changes) and kept.changes[-1]["record"]["id"] == 2)
        assert [one["record"]["id"] for one in kept.changes] == [2]


async def test_a_filter_that_fails_on_a_hidden_row_says_nothing(
    migrated: str, owner: asyncpg.Connection
) -> None:
    """Filters are asked before policies: what they find of a row that is hidden goes no further."""
    await owner.execute("""
        alter table evil enable row level security;
        create policy later on evil using (id > 1);
        create or replace function trick(text) returns bool language plpgsql as $$
        begin
          if current_user = 'anon' and $1 = 'xa' then raise 'the row says %', $1; end if;
          return true;
        end $$
    """)
    async with streaming(migrated) as stream:
        kept = await subscribed(stream, "evil", "d=like.x%", claims=ANON)
        await owner.execute("insert into evil values (1, 'xa'), (0, 'xb'), (2, 'xb')")
        await kept.until(lambda: bool(kept.changes))
        await stream._present.settle()
    assert [one["record"] for one in kept.changes] == [{"d": "xb", "id": 2}]
    assert (kept.told, kept.losses) == ([], 0)


async def test_a_server_that_is_no_superuser_asks_for_roles_that_it_is_a_member_of(
    migrated: str, owner: asyncpg.Connection
) -> None:
    login = f"server_{await owner.fetchval('select current_database()')}"
    await owner.execute(f"""
        create role {login} login password 'x' noinherit;
        grant anon to {login};
        grant usage on schema rowcast to {login};
        grant execute on all functions in schema rowcast to {login};
    """)
    address = migrated.replace("//postgres:", f"//{login}:", 1)
    connection = await asyncpg.connect(address, user=login, password="x", statement_cache_size=0)
    try:
        for escape, passes in (("null", True), (f"execute 'set role {login}'", False)):
            await set_trick(owner, escape)
            async with undone(connection):
                asked = await as_role(connection, "anon", "select public.trick($1)", ["text"], ["bool"])
                assert await connection.fetchval(asked, "xa", "anon") is passes
            await is_itself(connection)
        async with undone(connection):
            with pytest.raises(RoleUnavailable):
                await as_role(connection, "authenticated", "select 1", [], ["int"])
    finally:
        await connection.close()
        await owner.execute(f"drop owned by {login}; drop role {login}")


async def test_what_is_hidden_shows_in_the_numbers_of_changes_and_in_a_filter_that_it_makes_slow(
    migrated: str, owner: asyncpg.Connection
) -> None:
    """What remains, and is documented."""
    await owner.execute("""
        alter table evil enable row level security;
        create policy later on evil using (id > 1);
        create or replace function trick(text) returns bool language plpgsql as $$
        begin
          if current_user = 'anon' and $1 = 'xa' then perform pg_sleep(60); end if;
          return true;
        end $$
    """)
    async with streaming(migrated, filter_timeout=0.2) as stream:
        plain = await subscribed(stream, "evil", claims=ANON)
        slow = await subscribed(stream, "evil", "d=like.x%", claims=ANON)
        await owner.execute("insert into evil values (2, 'b'), (0, 'b'), (1, 'b'), (3, 'b')")
        await plain.until(lambda: len(plain.changes) == 2)
        first, last = (change["seq"] for change in plain.changes)
        assert last - first == 3
        assert slow.told == []
        await owner.execute("insert into evil values (-1, 'xa')")
        await slow.until(lambda: bool(slow.told))
        assert slow.changes == []
        assert [status for status, _ in slow.told] == ["error"]


STUBBORN = """
create or replace function trick(text) returns bool language plpgsql as $$
begin
  while current_user = 'anon' and $1 = 'xa' loop
    begin perform pg_sleep(60); exception when query_canceled then null; end;
  end loop;
  return true;
end $$
"""
SPINNING = """select count(*) from pg_stat_activity where datname = current_database()
and state = 'active' and query like '%rowcast_question%' and pid <> pg_backend_pid()"""


async def test_a_type_that_will_not_be_cancelled_holds_nobody_up_when_rows_are_read(
    migrated: str, owner: asyncpg.Connection
) -> None:
    async with streaming(migrated, filter_timeout=0.2) as stream:
        stubborn = await subscribed(stream, "evil", "d=like.x%", claims=ANON)
        await owner.execute(
            "create table good (id int primary key, t text); grant select on good to anon;"
            "alter publication supabase_realtime add table good"
        )
        good = await subscribed(stream, "good", "t=like.x%", claims=ANON)
        await owner.execute(STUBBORN)
        await owner.execute("insert into evil values (1, 'xa')")
        await owner.execute("insert into good values (1, 'xa')")
        await good.until(lambda: bool(good.changes))
        assert (stubborn.changes, [status for status, _ in stubborn.told]) == ([], ["error"])
        assert await owner.fetchval(SPINNING) == 0


async def test_a_type_that_will_not_be_cancelled_is_asked_once_when_filters_are_made(
    migrated: str, owner: asyncpg.Connection
) -> None:
    await owner.execute(STUBBORN)
    refusals = []
    async with streaming(migrated) as stream:
        for filter_ in ("d=eq.xa", "d=eq.xb", "id=eq.1"):
            try:
                await subscribed(stream, "evil", filter_, claims=ANON)
            except AssertionError as error:
                refusals.append(str(error))
        assert await owner.fetchval(SPINNING) == 0
    assert ["57014" in text for text in refusals] == [True, True]


async def test_a_policy_on_private_channels_that_will_not_be_cancelled_is_ended(
    migrated: str, owner: asyncpg.Connection
) -> None:
    await owner.execute("create policy reads on realtime.messages for select using (trick('xa'))")
    await owner.execute(STUBBORN)
    pool = await create_pool(migrated, 1)
    with pytest.raises(ChannelUnavailable, match="Query was cancelled"):
        await Channels(pool, ["anon"], seconds=0.1).may_read(ChannelRequest("room", ANON, {}), presence=True)
    async with pool.acquire() as connection:
        await is_itself(connection)
    pool.terminate()
    assert await owner.fetchval(SPINNING) == 0
