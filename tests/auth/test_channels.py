"""What private channels allow: the policies on realtime.messages, asked on a real Postgres."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import structlog
from structlog.testing import capture_logs

from rowcast.auth.channels import Channels
from rowcast.db.pool import create_pool
from rowcast.model.allowed import Allowed, ChannelRequest, ChannelUnavailable
from rowcast.model.claims import Claims
from support.proxies import proxied

BOTH, NEITHER = Allowed(True, True), Allowed()
USER = "11111111-1111-1111-1111-111111111111"
ROLES = ("anon", "authenticated", "service_role")


def request(
    topic: str = "room", role: str = "authenticated", headers: dict[str, str] | None = None, **claims: Any
) -> ChannelRequest:
    raw = {"role": role, "sub": USER, **claims}
    return ChannelRequest(topic, Claims(role, 2e9, raw), headers or {})


@pytest.fixture
async def database_pool(migrated: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await create_pool(migrated, 1)
    yield pool
    pool.terminate()


@pytest.fixture
def channels(database_pool: asyncpg.Pool) -> Channels:
    return Channels(database_pool, ROLES, seconds=1.0)


async def policies(pool: asyncpg.Pool, *texts: str) -> None:
    async with pool.acquire() as connection:
        for text in texts:
            await connection.execute(text)


READ = "create policy p_read on realtime.messages for select to authenticated using "
# A division by a constant would be done when the policy is planned.
FAILS = "(1 / length(substr(topic, 1, 0)) = 0)"
FAILS_ON_PRESENCE = "(extension <> 'presence' or 1 / (length(extension) - 8) = 0)"
WRITE = "create policy p_write on realtime.messages for insert to authenticated with check "


async def test_without_a_policy_nobody_may_read_or_write(channels: Channels) -> None:
    for role in ("anon", "authenticated"):
        assert await channels.may_read(request(role=role), presence=True) == NEITHER
        assert await channels.may_write(request(role=role)) == NEITHER


async def test_a_role_that_passes_policies_may_do_both(channels: Channels) -> None:
    assert await channels.may_read(request(role="service_role"), presence=True) == BOTH
    assert await channels.may_write(request(role="service_role")) == BOTH


async def test_policies_are_for_their_roles_and_topics(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    await policies(database_pool, READ + "(realtime.topic() = 'room')", WRITE + "(realtime.topic() = 'room')")
    assert await channels.may_read(request(), presence=True) == BOTH
    assert await channels.may_write(request()) == BOTH
    assert await channels.may_read(request("other"), presence=True) == NEITHER
    assert await channels.may_write(request("other")) == NEITHER
    assert await channels.may_read(request(role="anon"), presence=True) == NEITHER


async def test_reading_and_writing_are_asked_apart(channels: Channels, database_pool: asyncpg.Pool) -> None:
    await policies(database_pool, READ + "(true)")
    assert await channels.may_read(request(), presence=True) == BOTH
    assert await channels.may_write(request()) == NEITHER
    await policies(database_pool, "drop policy p_read on realtime.messages", WRITE + "(true)")
    assert await channels.may_read(request(), presence=True) == NEITHER
    assert await channels.may_write(request()) == BOTH


@pytest.mark.parametrize("extension", ["broadcast", "presence"])
async def test_a_policy_may_allow_one_kind_of_message(
    channels: Channels, database_pool: asyncpg.Pool, extension: str
) -> None:
    await policies(
        database_pool, READ + f"(extension = '{extension}')", WRITE + f"(extension = '{extension}')"
    )
    wanted = Allowed(**{extension: True})
    assert await channels.may_read(request(), presence=True) == wanted
    assert await channels.may_write(request()) == wanted


async def test_presence_is_not_asked_where_it_is_not_wanted(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    await policies(database_pool, READ + FAILS_ON_PRESENCE)
    assert await channels.may_read(request(), presence=False) == Allowed(broadcast=True)
    assert await channels.may_read(request(), presence=True) == NEITHER


async def test_policies_see_the_topic_of_the_row_and_nothing_of_a_message(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    await policies(
        database_pool,
        READ + "(topic = 'room' and not private and event is null and payload is null)",
        WRITE + "(topic = 'room' and not private and event is null and payload is null)",
    )
    assert await channels.may_read(request(), presence=True) == BOTH
    assert await channels.may_write(request()) == BOTH


@pytest.mark.parametrize(
    "condition",
    [
        f"auth.uid() = '{USER}'",
        "auth.role() = 'authenticated'",
        "auth.jwt() -> 'app' ->> 'team' = 'it''s \"red\" é'",
        "current_user = 'authenticated'",
        f"current_setting('request.jwt.claim.sub', true) = '{USER}'",
        "current_setting('request.jwt.claim.role', true) = 'authenticated'",
        "current_setting('request.headers', true)::json ->> 'x-tenant' = 'a'",
        "exists (select from realtime.messages as m where m.topic = realtime.topic())",
    ],
)
async def test_policies_read_who_asks(
    channels: Channels, database_pool: asyncpg.Pool, condition: str
) -> None:
    who = request(headers={"x-tenant": "a"}, app={"team": 'it\'s "red" é'})
    if "exists" in condition:
        # A policy that reads its own table is a recursion to Postgres, and so for nobody.
        await policies(database_pool, READ + f"({condition})")
        assert await channels.may_read(who, presence=True) == NEITHER
        return
    await policies(database_pool, READ + f"({condition})", WRITE + f"({condition})")
    assert await channels.may_read(who, presence=True) == BOTH
    assert await channels.may_write(who) == BOTH


async def test_a_policy_that_fails_allows_nothing_and_is_logged_without_its_text(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    await policies(database_pool, READ + FAILS, WRITE + FAILS)
    structlog.reset_defaults()
    with capture_logs() as logs:
        assert await channels.may_read(request(), presence=False) == NEITHER
        assert await channels.may_write(request()) == NEITHER
    assert [log["error"] for log in logs] == ["DivisionByZeroError"] * 2
    assert all(USER not in str(log) for log in logs)


async def test_a_policy_that_fails_for_presence_blocks_writing_broadcasts_too(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    await policies(database_pool, WRITE + FAILS_ON_PRESENCE)
    assert await channels.may_write(request()) == NEITHER


async def test_a_policy_that_takes_too_long_is_given_up(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    await policies(database_pool, READ + "(pg_sleep(60) is null)")
    with pytest.raises(ChannelUnavailable) as refusal:
        await channels.may_read(request(), presence=False)
    assert refusal.value.reason == "QueryCanceled: Query was cancelled, please try again"


@pytest.mark.parametrize("role", ["postgres", "nobody", "rowcast_capture", "pg_monitor", "none", ""])
async def test_a_role_that_is_not_on_the_list_is_never_assumed(channels: Channels, role: str) -> None:
    assert await channels.may_read(request(role=role), presence=True) == NEITHER
    assert await channels.may_write(request(role=role)) == NEITHER


async def test_a_role_on_the_list_that_does_not_exist_may_do_nothing(
    database_pool: asyncpg.Pool,
) -> None:
    channels = Channels(database_pool, [*ROLES, 'no "such" role'])
    assert await channels.may_read(request(role='no "such" role'), presence=True) == NEITHER
    assert await channels.may_write(request(role='no "such" role')) == NEITHER


async def test_nothing_stays_of_a_question(channels: Channels, database_pool: asyncpg.Pool) -> None:
    await policies(database_pool, READ + "(true)", WRITE + f"(topic <> 'fails' or {FAILS})")
    for topic in ("room", "fails"):
        await channels.may_read(request(topic), presence=True)
        await channels.may_write(request(topic))
    async with database_pool.acquire() as connection:
        assert await connection.fetchval("select current_user = session_user")
        assert await connection.fetchval("select current_setting('request.jwt.claims', true)") in (None, "")
        assert await connection.fetchval("select count(*) from realtime.messages") == 0


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "x'; reset role; --"},
        {"sub": {"nested": [1, "'"]}},
        {"sub": None},
        {"app": {"q": "\"'\\ \u2028 é 💥", "deep": [[[[]]]], "n": 12345678901234567890123}},
        {"app": "x" * 100_000},
    ],
)
async def test_claims_arrive_as_they_were_signed(
    channels: Channels, database_pool: asyncpg.Pool, claims: dict[str, Any]
) -> None:
    await policies(
        database_pool,
        "create table public.seen (claims jsonb, sub text)",
        "grant insert on public.seen to authenticated",
        READ + "(auth.jwt() is not null and auth.jwt() ->> 'role' = current_user)",
    )
    assert await channels.may_read(request(**claims), presence=True) == BOTH


@pytest.mark.parametrize("hostile", ["room\x00", "x" * 100_000, "a'b\"c\\d", "💥", ""])
async def test_any_topic_is_a_topic(channels: Channels, hostile: str) -> None:
    assert await channels.may_read(request(hostile), presence=True) == NEITHER
    wanted = NEITHER if "\x00" in hostile else BOTH
    assert await channels.may_write(request(hostile, role="service_role")) == wanted


async def test_what_a_sub_holds_that_postgres_cannot_allows_nothing(channels: Channels) -> None:
    assert await channels.may_read(request(role="service_role", sub="a\x00b"), presence=True) == NEITHER


async def test_without_the_partition_of_today_it_says_so(
    channels: Channels, database_pool: asyncpg.Pool
) -> None:
    async with database_pool.acquire() as connection:
        for name in await connection.fetch(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass"
        ):
            await connection.execute(f"drop table {name[0]}")
    with pytest.raises(ChannelUnavailable) as refusal:
        await channels.may_read(request(), presence=False)
    text = "MissingPartition: Realtime was unable to find the expected messages partition"
    assert refusal.value.reason == text


async def test_when_every_connection_is_taken_it_says_so(
    channels: Channels, database_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.auth.channels._ACQUIRE_SECONDS", 0.01)
    async with database_pool.acquire():
        with pytest.raises(ChannelUnavailable) as refusal:
            await channels.may_write(request())
    assert refusal.value.reason == "IncreaseConnectionPool: Please increase your connection pool size"


async def test_a_connection_that_fell_silent_is_given_up_and_another_is_asked(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.auth.channels._ACQUIRE_SECONDS", 1.0)
    monkeypatch.setattr("rowcast.auth.channels.PATIENCE", 0.1)
    async with proxied(migrated) as proxy:
        pool = await create_pool(proxy.address, 1)
        channels = Channels(pool, ROLES, seconds=0.5)
        assert await channels.may_read(request(role="service_role"), presence=True) == BOTH
        proxy.silence()
        with pytest.raises(ChannelUnavailable) as refusal:
            await channels.may_read(request(role="service_role"), presence=True)
        assert refusal.value.reason.startswith("UnableToConnectToProject")
        assert await channels.may_read(request(role="service_role"), presence=True) == BOTH
        pool.terminate()


async def test_without_a_database_it_says_so() -> None:
    pool = await create_pool("postgresql://nobody@127.0.0.1:1/nothing", 1)
    with pytest.raises(ChannelUnavailable) as refusal:
        await Channels(pool, ROLES).may_read(request(), presence=False)
    assert refusal.value.reason == (
        "UnableToConnectToProject: Realtime was unable to connect to the project database"
    )


async def test_partitions_are_kept_for_the_days_around_today(database_pool: asyncpg.Pool) -> None:
    days = """select array_agg(to_date(substr(c.relname, 10), 'YYYY_MM_DD') - (now() at time zone 'utc')::date
                               order by c.relname)
              from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
              where i.inhparent = 'realtime.messages'::regclass"""
    async with database_pool.acquire() as connection:
        assert await connection.fetchval(days) == [-1, 0, 1, 2, 3]
        assert await connection.fetchval("select rowcast.keep_messages('72 hours')") == 0
        await connection.execute(
            """create table realtime.messages_2020_01_01 partition of realtime.messages
               for values from ('2020-01-01') to ('2020-01-02')"""
        )
        assert await connection.fetchval("select rowcast.keep_messages('72 hours')") == 1
        assert await connection.fetchval(days) == [-1, 0, 1, 2, 3]
        # The time to keep counts from the end of a day.
        assert await connection.fetchval("select rowcast.keep_messages('0 hours')") == 1
        assert await connection.fetchval(days) == [0, 1, 2, 3]
