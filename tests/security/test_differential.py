"""Whatever table, policies, grants and writes: who hears which change with which columns is who could select
that image of the row, under that role and those claims.

The server is the real one, and so are the sockets. What is right is asked of Postgres: each image is put into
a table like the one it is of, and selected from there as the role, in a transaction that is rolled back.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from websockets.asyncio.client import ClientConnection, connect

from rowcast.auth.visibility import SEARCH_PATH
from support import databases
from support.guarded import FILTERS, WRITERS, Case, Write, cases, quoted
from support.server import Server
from support.tokens import make_token

pytestmark = pytest.mark.anyio

PATIENCE = 60
SETUP = """
create schema shadow;
create table members (team int, who text, secret bool not null);
insert into members values (0, 'ada', false), (1, 'ada', true), (1, 'bob', false), (-7, null, false);
alter table members enable row level security;
create policy p on members using (not secret or who = auth.jwt() ->> 'sub');
create function team_of(who text) returns int language sql stable security definer set search_path = ''
  as $$ select max(m.team) from public.members as m where m.who = $1 $$;
create table fence (id int primary key);
insert into fence values (0);
alter publication supabase_realtime add table fence;
create table noted (number int generated always as identity, op text, old text, new text);
create function note() returns trigger language plpgsql security definer set search_path = 'public' as $$
  begin
    insert into noted (op, old, new) values (tg_op, old::text, new::text);
    return null;
  end $$;
"""


class Heard(NamedTuple):
    """A change: its row, as far as it is shown, and which columns of it and of the old row."""

    op: str
    id: int | None
    record: frozenset[str] | None
    old: frozenset[str] | None


class Hearer:
    """A socket with one channel: it hears of `subject`, and of the fence."""

    def __init__(
        self, connection: ClientConnection, role: str, claims: str, filter_: tuple[str, str, str] | None
    ) -> None:
        self._connection = connection
        self.role, self.claims, self.filter = role, claims, filter_
        self.refused = False

    async def join(self) -> None:
        """Return when it is certain that later writes are heard; ``refused`` says that some are not."""
        subject = {"event": "*", "schema": "public", "table": "subject"}
        if self.filter is not None:
            subject["filter"] = self.filter[0]
        entries = [subject, {"event": "*", "schema": "public", "table": "fence"}]
        payload = {"config": {"postgres_changes": entries}}
        await self._connection.send(json.dumps(["1", "1", "realtime:x", "phx_join", payload]))
        while True:
            *_, event, said = await self._hear()
            if event == "system":
                if said["status"] == "ok":
                    return
                self.refused = True

    async def until(self, fence: int) -> list[Heard]:
        """What it heard before the fence had this number."""
        found: list[Heard] = []
        while True:
            *_, event, said = await self._hear()
            if event == "system":
                # The review of the catalog comes behind the join, and finds another table by the name.
                assert said["status"] == "ok", said
                continue
            assert event == "postgres_changes", (event, said)
            data = said["data"]
            if data["table"] == "fence":
                assert data["record"] == {"id": fence}
                return found
            new, old = data.get("record"), data.get("old_record")
            assert data["errors"] is None
            assert new is None or {one["name"] for one in data["columns"]} == new.keys()
            row = old if new is None else new
            found.append(
                Heard(
                    data["type"],
                    row.get("id"),
                    None if new is None else frozenset(new),
                    None if old is None else frozenset(old),
                )
            )

    async def _hear(self) -> Any:
        return json.loads(await asyncio.wait_for(self._connection.recv(), PATIENCE))


class Difference:
    """A database and its server, where a case is had and what is heard of it compared.

    ``roles``: one that inherits nothing of the group that it is in, one that does, the group, and two more.
    """

    def __init__(self, admin: asyncpg.Connection, writers: Sequence[asyncpg.Connection], name: str) -> None:
        self.admin, self._writers = admin, writers
        self._made = [f"{name}_{role}" for role in ("noinherit", "inherits", "group")]
        self.roles = [*self._made, "authenticated", "service_role"]
        self.server: Server | None = None
        self._fence = 0
        self.heard = self.hidden = 0

    async def set_up(self) -> None:
        loner, member, group = self._made
        names = ", ".join(self.roles)
        await self.admin.execute(f"""
            create role {group};
            create role {loner} noinherit in role {group};
            create role {member} in role {group};
            {SETUP}
            grant usage on schema auth, shadow to {names};
            grant select on members to {loner}, {group}, authenticated, service_role;
            grant select on fence to {names};
        """)

    async def tear_down(self) -> None:
        names = ", ".join(self._made)
        await self.admin.execute(f"""
            drop table if exists public.subject, shadow.subject;
            drop owned by {names}; drop role {names};
        """)

    async def check(self, case: Case) -> None:
        await self._make(case)
        async with asyncio.TaskGroup() as tasks:
            opened = [tasks.create_task(self._open(*hearer)) for hearer in case.hearers]
        hearers = [task.result() for task in opened]
        try:
            for hearer in hearers:
                await hearer.join()
            await self._write(case.writes)
            self._fence += 1
            await self.admin.execute("update public.fence set id = $1", self._fence)
            said = [await hearer.until(self._fence) for hearer in hearers]
        finally:
            for hearer in hearers:
                await hearer._connection.close()
        noted = await self.admin.fetch("select op, old, new from public.noted order by number")
        for hearer, heard in zip(hearers, said, strict=True):
            expected = await self._expected(hearer, noted, full=case.full)
            assert Counter(heard) == Counter(expected)
            ids = {one.id for one in expected if one.id is not None}
            for id_ in ids:
                assert [one for one in heard if one.id == id_] == [one for one in expected if one.id == id_]
            self.heard += len(expected)
            self.hidden += len(noted) - len(expected)

    async def _make(self, case: Case) -> None:
        columns = ", ".join(f"{quoted(name)} {type_}" for name, type_ in case.columns)
        names = ", ".join(self.roles)
        policies = "".join(
            f"create policy p{number} on subject {self._named(policy)};"
            for number, policy in enumerate(case.policies)
        )
        table = "".join(self._named(statement) + ";" for statement in case.table)
        same = f"""
            create table subject ({columns}, primary key (id));
            alter table subject enable row level security;
            grant select on subject to {names};
            {policies}
        """
        await self.admin.execute(f"""
            set client_min_messages = warning;
            drop table if exists public.subject, shadow.subject;
            truncate public.noted restart identity;
            set search_path = shadow, {SEARCH_PATH};
            {same}
            {table}
            set search_path = {SEARCH_PATH};
            {same}
            create trigger noted after insert or update or delete on subject
              for each row execute function note();
            alter table subject replica identity {"full" if case.full else "default"};
            alter publication supabase_realtime add table subject;
            {table}
        """)

    def _named(self, text: str) -> str:
        for number, role in enumerate(self._made):
            text = text.replace(f"<{number}>", role)
        return text

    async def _open(self, role: int, sub: str | None, team: int, filter_: int) -> Hearer:
        claims: dict[str, Any] = {"team": team} | ({} if sub is None else {"sub": sub})
        token = make_token(self.roles[role], **claims)
        assert self.server is not None
        connection = await connect(f"{self.server.websocket}?apikey={token}&vsn=2.0.0")
        text = json.dumps({"role": self.roles[role], **claims})
        return Hearer(connection, self.roles[role], text, FILTERS[filter_])

    async def _write(self, steps: Sequence[Write]) -> None:
        """Each writer has rows of its own, and a transaction that is open as long as it says."""
        open_: dict[int, set[str]] = {}
        try:
            for writer, sql in steps:
                connection = self._writers[writer]
                ends = sql in ("commit", "rollback")
                if ends and writer not in open_:
                    continue
                if sql == "rollback to s" and "s" not in open_.get(writer, ()):
                    continue
                if writer not in open_:
                    await connection.execute("begin")
                    open_[writer] = set()
                if sql == "savepoint s":
                    open_[writer].add("s")
                await connection.execute(sql.replace("{of}", f"id % {WRITERS} = {writer}"))
                if ends:
                    del open_[writer]
        except BaseException:
            for writer in open_:
                await self._writers[writer].execute("rollback")
            raise
        for writer in open_:
            await self._writers[writer].execute("commit")

    async def _expected(self, hearer: Hearer, noted: Sequence[asyncpg.Record], *, full: bool) -> list[Heard]:
        granted = await self.admin.fetchval(
            "select coalesce(array_agg(attname::text), '{}') from pg_attribute"
            " where attrelid = 'public.subject'::regclass and attnum > 0"
            "   and has_column_privilege($1, attrelid, attnum, 'select')",
            hearer.role,
        )
        readable = frozenset(granted)
        column = None if hearer.filter is None else hearer.filter[2]
        assert hearer.refused == (not readable or (column is not None and column not in readable))
        if hearer.refused:
            return []
        found = []
        images = _Images(self.admin, hearer, sorted(readable))
        for op, old, new in noted:
            row = old if new is None else new
            if not (await images.passes(row) and await images.seen(row)):
                continue
            shown = None
            if old is not None:
                sees_old = op != "UPDATE" or await images.seen(old)
                shown = (readable if full else readable & {"id"}) if sees_old else frozenset[str]()
            # The key of the row that the change is told by.
            id_ = int(row[1:].split(",")[0].rstrip(")")) if "id" in readable else None
            found.append(Heard(op, id_, None if new is None else readable, shown))
        return found


class _Images:
    """What a hearer could select, and what its filter lets through."""

    def __init__(self, admin: asyncpg.Connection, hearer: Hearer, columns: Sequence[str]) -> None:
        self._admin, self._hearer = admin, hearer
        self._columns = ", ".join(map(quoted, columns))
        self._known: dict[str, bool] = {}

    async def passes(self, image: str) -> bool:
        if self._hearer.filter is None:
            return True
        condition = self._hearer.filter[1]
        return bool(
            await self._admin.fetchval(
                f"select {condition} from (select ($1::text::shadow.subject).*) as t", image
            )
        )

    async def seen(self, image: str) -> bool:
        if image not in self._known:
            self._known[image] = await self._selected(image)
        return self._known[image]

    async def _selected(self, image: str) -> bool:
        transaction = self._admin.transaction()
        await transaction.start()
        try:
            await self._admin.execute("insert into shadow.subject select ($1::text::shadow.subject).*", image)
            hearer, settings = self._hearer, "request.jwt.claim"
            await self._admin.execute(f"""
                set local search_path = {SEARCH_PATH}; set local {settings}s = '{hearer.claims}';
                set local {settings}.sub = '{json.loads(hearer.claims).get("sub", "")}';
                set local {settings}.role = '{hearer.role}'; set local role {hearer.role}
            """)
            return bool(await self._admin.fetch(f"select {self._columns} from shadow.subject"))
        except asyncpg.PostgresError:
            return False
        finally:
            await transaction.rollback()


@pytest.fixture(scope="module")
async def difference(
    postgres: str,
    migrated_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Difference]:
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    admin, *writers = [await asyncpg.connect(dsn, statement_cache_size=0) for _ in range(WRITERS + 1)]
    difference = Difference(admin, writers, name)
    await difference.set_up()
    log = tmp_path_factory.mktemp("difference") / "server.log"
    # Nothing here is slow but the machine.
    named = {"ROWCAST_ROLES": ",".join(difference.roles), "ROWCAST_POLICY_TIMEOUT": "20s"}
    server = difference.server = Server(dsn, log, named)
    await server.start()
    yield difference
    await server.end()
    await difference.tear_down()
    for connection in (admin, *writers):
        await connection.close()
    databases.drop(postgres, name)
    # Had nobody heard anything, all would have agreed: PLAIN is always among the cases.
    assert difference.heard
    assert difference.hidden


#: All of it is heard, by some.
PLAIN = Case(
    (("id", "int"), ("a", "text")),
    True,
    ("as permissive for select to public using (id % 2 = 0)",),
    (),
    tuple(
        Write(writer, sql)
        for writer in range(WRITERS)
        for sql in (
            f"insert into subject select n * {WRITERS} + {writer}, 'ada' from generate_series(0, 5) as n",
            "update subject set a = 'bob' where {of}",
            "delete from subject where {of}",
            "commit",
        )
    ),
    ((4, None, 0, 0), (3, "ada", 0, 0), (1, None, 0, 1)),
)


@example(case=PLAIN)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
async def test_who_hears_what_is_who_could_select_it(difference: Difference, case: Case) -> None:
    await difference.check(case)
