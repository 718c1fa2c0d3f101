"""Rows that leave a subscription, tables that are emptied, and whole transactions, over real sockets.

What is right is asked of Postgres: which images of a row pass a filter, and who may select them.
"""

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import databases
from transcripts.frames import OK
from transcripts.stage import Client, Stage, open_stage

pytestmark = pytest.mark.anyio

TOPIC = "realtime:room"
TABLES = """
create table items (id int primary key, owner text, n int, txt text);
create table notes (id int primary key, owner text, n int, txt text);
alter table notes enable row level security;
create policy own on notes for select to authenticated using (owner = (select auth.jwt() ->> 'sub'));
create table parted (id int, n int) partition by list (n);
create table part_one partition of parted for values in (1);
create table part_two partition of parted for values in (2);
grant select on items, notes, parted to anon, authenticated;
alter publication supabase_realtime add table items, notes, parted;
alter publication supabase_realtime set (publish_via_partition_root = true);
create table noted (number int generated always as identity, tab text, op text, old text, new text);
create function note() returns trigger language plpgsql security definer set search_path = 'public' as $$
  begin
    insert into noted (tab, op, old, new) values (tg_table_name, tg_op, old::text, new::text);
    return null;
  end $$;
create trigger noted after insert or update or delete on items for each row execute function note();
create trigger noted after insert or update or delete on notes for each row execute function note();
"""
BEYOND = {"leave": True, "truncate": True}


@pytest.fixture(scope="module")
async def opened(
    postgres: str,
    migrated_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stage]:
    name = next(database_names)
    database = databases.create(postgres, name, template=migrated_template)
    log = tmp_path_factory.mktemp("stage") / "server.log"
    settings = {
        "ROWCAST_MAX_CHANGE": "64kB",
        "ROWCAST_POLICY_TIMEOUT": "20s",
        "ROWCAST_FILTER_TIMEOUT": "20s",
    }
    async with open_stage(database, log, [TABLES], **settings) as stage:
        yield stage
    databases.drop(postgres, name)


@pytest.fixture
async def stage(opened: Stage) -> Stage:
    await clear(opened)
    return opened


async def clear(stage: Stage) -> None:
    await stage.run("truncate items, notes, parted; truncate noted restart identity")
    await stage.settle()


class Hearing:
    """One channel on a socket of its own."""

    def __init__(self, client: Client, stage: Stage) -> None:
        self._client, self._stage = client, stage

    async def heard(self) -> list[tuple[str, Any]]:
        """Event and payload of each message since the last call, once all that was written was sent."""
        await self._stage.settle()
        await self._client.say("phoenix", "heartbeat", {}, "beat", None)
        found: list[tuple[str, Any]] = []
        while True:
            _, ref, _, event, payload = await self._client.hear()
            if ref == "beat":
                return found
            found.append((event, payload))

    async def changes(self) -> list[tuple[str, Any]]:
        """The type and the `id` of each change, or of its old row."""
        return [short(payload["data"]) for _, payload in await self.heard()]


def short(data: Any) -> tuple[str, Any]:
    return data["type"], data.get("record", data.get("old_record", {})).get("id")


def on(table: str = "items", **more: Any) -> dict[str, Any]:
    return {"event": "*", "schema": "public", "table": table, **more}


@contextlib.asynccontextmanager
async def hearing(
    stage: Stage, *entries: dict[str, Any], sub: str | None = None, rowcast: Any = None
) -> AsyncIterator[Hearing]:
    """A channel that is subscribed: as ``anon``, or as a user."""
    socket = stage.client() if sub is None else stage.client(role="authenticated", sub=sub)
    async with socket as client:
        config = {"postgres_changes": entries, **({"rowcast": rowcast} if rowcast else {})}
        await client.say(TOPIC, "phx_join", {"config": config}, "1", "1")
        assert (await client.hear())[4]["status"] == "ok"
        said = await client.hear()
        assert said[4]["message"] == OK.message, said
        yield Hearing(client, stage)


@pytest.mark.parametrize("filter_", ["n=lt.5", "n=in.(1,2)", "txt=like.a%"])
async def test_a_row_that_no_longer_passes_a_filter_leaves(stage: Stage, filter_: str) -> None:
    async with (
        hearing(stage, on(filter=filter_, leave=True)) as asked,
        hearing(stage, on(filter=filter_), rowcast={"leave": "perhaps"}) as unasked,
        hearing(stage, on(filter=filter_, event="UPDATE"), rowcast=BEYOND) as updates,
        hearing(stage, on(filter=filter_, event="DELETE"), rowcast=BEYOND) as deletes,
    ):
        await stage.run("insert into items values (1, null, 1, 'a'), (2, null, 9, 'b')")
        await stage.run(
            "update items set txt = 'ab', n = 2 where id = 1", "update items set n = 8 where id = 2"
        )
        await stage.run("update items set n = 7, txt = 'c'", "update items set n = 6")
        await stage.run("update items set n = 1, txt = 'a' where id = 2", "delete from items")
        here = [("INSERT", 1), ("UPDATE", 1), ("LEAVE", 1), ("UPDATE", 2), ("DELETE", 2)]
        assert await asked.changes() == here
        assert await unasked.changes() == [one for one in here if one[0] != "LEAVE"]
        assert await updates.changes() == here[1:4]
        assert await deletes.changes() == here[4:]


async def test_a_row_that_is_given_away_leaves_its_owner(stage: Stage) -> None:
    async with (
        hearing(stage, on("notes", leave=True), sub="ada") as ada,
        hearing(stage, on("notes", leave=True, filter="txt=like.x%"), sub="ada") as filtered,
        hearing(stage, on("notes"), sub="ada") as unasked,
        hearing(stage, on("notes", leave=True), sub="bob") as bob,
    ):
        await stage.run("insert into notes values (1, 'ada', 1, 'x'), (2, 'ada', 1, 'y')")
        await stage.run("update notes set owner = 'bob'", "update notes set n = 2")
        heard = await ada.heard()
        changes = [payload["data"] for _, payload in heard]
        assert [short(data) for data in changes] == [
            ("INSERT", 1), ("INSERT", 2), ("LEAVE", 1), ("LEAVE", 2),
        ]  # fmt: skip
        assert "record" not in changes[2]
        assert changes[2]["old_record"] == {"id": 1}
        assert await filtered.changes() == [("INSERT", 1), ("LEAVE", 1)]
        assert await unasked.changes() == [("INSERT", 1), ("INSERT", 2)]
        assert await bob.changes() == [("UPDATE", 1), ("UPDATE", 2), ("UPDATE", 1), ("UPDATE", 2)]


async def test_of_several_messages_about_a_change_the_last_alone_moves_the_position(stage: Stage) -> None:
    entries = [
        on(filter="n=eq.1", select=["n"], leave=True),
        on(filter="n=eq.1", leave=True),
        on(filter="n=eq.2", select=["txt"]),
        on(),
    ]
    async with hearing(stage, *entries) as channel:
        await stage.run("insert into items values (1, null, 1, 'a')", "update items set n = 2")
        data = [payload["data"] for _, payload in await channel.heard()]
        assert [one["type"] for one in data] == ["INSERT"] * 2 + ["LEAVE"] * 2 + ["UPDATE"] * 2
        inserts, updates = data[:2], data[2:]
        assert inserts[0]["position"] != inserts[1]["position"]
        assert len({one["seq"] for one in updates}) == 1
        # The position before the change, three times, and that after it.
        assert len({one["position"] for one in updates[:3]}) == 1
        assert updates[3]["position"] not in {one["position"] for one in data[:5]}


async def test_a_truncate_is_told_who_asked_and_no_part_passes_for_the_whole(stage: Stage) -> None:
    async with (
        hearing(stage, on(filter="n=eq.5", truncate=True)) as items,
        hearing(stage, on("notes"), rowcast=BEYOND, sub="ada") as notes,
        hearing(stage, on("parted", truncate=True)) as parted,
        hearing(stage, on("*")) as unasked,
    ):
        await stage.run("insert into parted values (1, 1), (2, 2)", "truncate part_one")
        assert await parted.changes() == [("INSERT", 1), ("INSERT", 2)]
        await stage.run("truncate items, notes, parted")
        for one in (items, notes, parted):
            ((_, payload),) = await one.heard()
            assert payload["data"]["type"] == "TRUNCATE"
            assert not {"record", "old_record"} & payload["data"].keys()
        assert await unasked.changes() == [("INSERT", 1), ("INSERT", 2)]


GROUPED = {"group": "transaction", "leave": True}


@pytest.mark.parametrize("filter_", [None, "n=gte.0", "txt=like.%"])
async def test_a_transaction_comes_as_one_whether_python_judges_it_or_postgres(
    stage: Stage, filter_: str | None
) -> None:
    entry = on() if filter_ is None else on(filter=filter_)
    async with hearing(stage, entry, rowcast=GROUPED) as grouped, hearing(stage, entry) as plain:
        async with stage.database.transaction():
            await stage.run(
                "insert into items values (1, null, 1, 'a')", "insert into notes values (1, 'ada')"
            )
            await stage.run("update items set n = 2", "delete from items")
        await stage.run("insert into items values (2, null, 1, 'a')")
        singly = [payload["data"] for _, payload in await plain.heard()]
        heard = await grouped.heard()
        assert [event for event, _ in heard] == ["transaction", "transaction"]
        first, second = (payload for _, payload in heard)
        assert [part["data"] for part in first["changes"]] == singly[:3]
        assert [part["data"] for part in second["changes"]] == singly[3:]
        assert (first["last"], second["last"]) == (True, True)
        assert first["commit_timestamp"] == singly[0]["commit_timestamp"]
        assert first["position"] == singly[2]["position"]


@pytest.mark.parametrize("filter_", ["n=gte.0", "txt=like.%"])
async def test_a_transaction_of_many_pages_comes_in_parts_that_are_sent_again_as_a_whole(
    stage: Stage, filter_: str
) -> None:
    async with hearing(stage, on(filter=filter_), rowcast=GROUPED) as grouped:
        await stage.run(
            "insert into items select i, null, i, repeat('x', 40) from generate_series(1, 2500) as i"
        )
        await stage.run("insert into items values (0, null, 0, 'last')")
        payloads = [payload for _, payload in await grouped.heard()]
        *parts, last, after = payloads
        assert [payload["last"] for payload in parts] == [False] * len(parts)
        assert len(parts) > 2
        assert last["last"]
        assert all(len(json.dumps(payload)) < 80_000 for payload in payloads)
        ids = [part["data"]["record"]["id"] for payload in (*parts, last) for part in payload["changes"]]
        assert ids == list(range(1, 2501))
        assert len({payload["position"] for payload in parts}) == 1
        assert last["position"] == last["changes"][-1]["data"]["position"] != parts[0]["position"]
        assert [part["data"]["record"]["id"] for part in after["changes"]] == [0]


#: Each filter, and what it means as SQL.
FILTERS = {None: "true", "n=lt.2": "n < 2", "txt=eq.a": "txt = 'a'", "txt=like.a%": "txt like 'a%'",
           "or=(n.is.null,txt.match.^b)": "n is null or txt ~ '^b'"}  # fmt: skip
ROWS = st.tuples(
    st.sampled_from(["'ada'", "'bob'", "null"]),
    st.sampled_from(["1", "2", "null"]),
    st.sampled_from(["'a'", "'ab'", "'b'", "null"]),
)
WRITES = st.one_of(
    st.builds(
        lambda table, id_, row: (
            f"insert into {table} values ({id_}, {', '.join(row)}) on conflict do nothing"
        ),
        st.sampled_from(["items", "notes"]),
        st.integers(1, 3),
        ROWS,
    ),
    st.builds(
        lambda table, id_, row: f"update {table} set (owner, n, txt) = ({', '.join(row)}) where id <= {id_}",
        st.sampled_from(["items", "notes"]),
        st.integers(1, 3),
        ROWS,
    ),
    st.sampled_from(
        ["update notes set owner = 'ada'", "delete from items where id = 1", "delete from notes"]
    ),
)
ENTRIES = [on(table, filter=text) if text else on(table) for table in ("items", "notes") for text in FILTERS]


async def expected(database: asyncpg.Connection, entry: dict[str, Any]) -> list[tuple[str, int]]:
    """What ada is to hear of what was written, by an entry that asks for leaves."""
    found = []
    sees = "owner = 'ada'" if entry["table"] == "notes" else "true"
    passes = f"coalesce(({sees}) and ({FILTERS[entry.get('filter')]}), false)"
    rows = await database.fetch(
        f"select op, o.id as old_id, n.id as new_id, o.is as old_is, n.is as new_is from noted"
        f" left join lateral (select id, {passes} as is from (select (old::items).*) as i) as o on true"
        f" left join lateral (select id, {passes} as is from (select (new::items).*) as i) as n on true"
        f" where tab = $1 order by number",
        entry["table"],
    )
    for op, old_id, new_id, old_is, new_is in rows:
        if old_is if op == "DELETE" else new_is:
            found.append((op, old_id if op == "DELETE" else new_id))
        elif op == "UPDATE" and old_is:
            found.append(("LEAVE", old_id))
    return found


class Hearers(NamedTuple):
    """Ada's channels: one for each entry, one with all of them, and one that asks for nothing more."""

    asked: list[Hearing]
    many: Hearing
    plain: Hearing


@pytest.fixture(scope="module")
async def hearers(opened: Stage) -> AsyncIterator[Hearers]:
    async with contextlib.AsyncExitStack() as stack:
        asked = [
            await stack.enter_async_context(hearing(opened, {**entry, "leave": True}, sub="ada"))
            for entry in ENTRIES
        ]
        many = await stack.enter_async_context(hearing(opened, *ENTRIES, sub="ada", rowcast={"leave": True}))
        plain = await stack.enter_async_context(hearing(opened, *ENTRIES, sub="ada"))
        yield Hearers(asked, many, plain)


@given(writes=st.lists(WRITES, min_size=3, max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_leaves_are_the_rows_that_passed_and_were_seen_and_are_not_any_more(
    opened: Stage, hearers: Hearers, writes: Sequence[str]
) -> None:
    await clear(opened)
    await opened.run(*writes)
    right = [await expected(opened.database, entry) for entry in ENTRIES]
    for channel, wanted in zip(hearers.asked, right, strict=True):
        # Rows of one statement come in no order of their own.
        assert sorted(await channel.changes()) == sorted(wanted)
    heard = await hearers.many.heard()
    assert Counter(short(payload["data"]) for _, payload in heard for _ in payload["ids"]) == Counter(
        one for wanted in right for one in wanted
    )
    # Who asked for none of this hears the same without it.
    usual = [(event, short(payload["data"])) for event, payload in await hearers.plain.heard()]
    others = [(event, short(payload["data"])) for event, payload in heard]
    assert usual == [one for one in others if one[1][0] != "LEAVE"]
