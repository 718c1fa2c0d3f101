"""Rights to rows and columns: the cases of the original's own tests, and what a filter must not tell."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rowcast.protocol.messages import Version
from transcripts.frames import Change
from transcripts.policies import COLUMNS, ONE, TABLE, TWO, note
from transcripts.stage import Stage, both, open_stage
from transcripts.steps import on

pytestmark = pytest.mark.anyio

TOPIC = "realtime:rights"


@pytest.fixture
async def open_deletes(migrated: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A stage where a DELETE is for everybody."""
    async with open_stage(migrated, tmp_path / "server.log", ROWCAST_OPEN_DELETES="true") as opened:
        yield opened


def inserted(id_: int, owner: str, body: str) -> Change:
    return Change("INSERT", "rls_notes", COLUMNS, note(id_, owner, body))


def deleted(id_: int) -> Change:
    return Change("DELETE", "rls_notes", COLUMNS, old_record={"id": id_})


async def shielded(stage: Stage, grants: str) -> None:
    """A published table ``shielded``, of which anon may read these columns."""
    await stage.run(
        "drop table if exists shielded; create table shielded (id int primary key, a text, b text);"
        f"grant select ({grants}) on shielded to anon; alter publication supabase_realtime add table shielded"
    )


@both
async def test_case_88_who_has_no_access_to_a_row_hears_nothing_of_it(stage: Stage, version: Version) -> None:
    await stage.run(TABLE)
    async with (
        stage.client(version, "authenticated", sub=ONE) as one,
        stage.client(version, "authenticated", sub=TWO) as two,
        stage.client(version) as anon,
    ):
        for client in (one, two, anon):
            await client.subscribe(TOPIC, on("rls_notes"))
        await stage.run(f"insert into rls_notes values (1, '{ONE}', 'a'), (2, '{TWO}', 'b'), (3, null, 'c')")
        await one.hears_event(TOPIC, inserted(1, ONE, "a"))
        await two.hears_event(TOPIC, inserted(2, TWO, "b"))
        await stage.settle()
        for client in (one, two, anon):
            await client.hears_nothing(listening=True)


@both
async def test_case_88_grants_of_columns_hide_the_others(stage: Stage, version: Version) -> None:
    await shielded(stage, "id, a")
    await stage.run("alter table shielded replica identity full")
    shown = "id:int4 a:text"
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, on("shielded"))
        await stage.run("insert into shielded values (1, 'x', 'secret')")
        await client.hears_event(TOPIC, Change("INSERT", "shielded", shown, {"a": "x", "id": 1}))
        await stage.run("update shielded set b = 'another secret'")
        row = {"a": "x", "id": 1}
        await client.hears_event(TOPIC, Change("UPDATE", "shielded", shown, row, row))
        await stage.run("delete from shielded")
        await client.hears_event(TOPIC, Change("DELETE", "shielded", shown, old_record=row))


@both
async def test_case_88_a_delete_is_sent_to_those_who_could_see_the_row(
    stage: Stage, version: Version
) -> None:
    await stage.run(TABLE, f"insert into rls_notes values (1, '{ONE}', 'a'), (2, '{TWO}', 'b')")
    await stage.settle()
    async with (
        stage.client(version, "authenticated", sub=ONE) as one,
        stage.client(version, "service_role") as service,
    ):
        for client in (one, service):
            await client.subscribe(TOPIC, on("rls_notes"))
        await stage.run("delete from rls_notes where id = 2", "delete from rls_notes where id = 1")
        await one.hears_event(TOPIC, deleted(1))
        for id_ in (2, 1):
            await service.hears_event(TOPIC, deleted(id_))


@both
async def test_case_88_a_delete_is_visible_to_everyone_where_that_is_asked_for(
    open_deletes: Stage, version: Version
) -> None:
    stage = open_deletes
    await stage.run(TABLE, f"insert into rls_notes values (1, '{ONE}', 'a')")
    await stage.run("alter table rls_notes replica identity full")
    await stage.settle()
    async with (
        stage.client(version, "authenticated", sub=TWO) as two,
        stage.client(version) as anon,
        stage.client(version, "service_role") as service,
    ):
        for client in (two, anon, service):
            await client.subscribe(TOPIC, on("rls_notes"))
        await stage.run("delete from rls_notes")
        for client in (two, anon, service):
            await client.hears_event(TOPIC, deleted(1))


@pytest.mark.parametrize("secret", ["body=eq.a", "body=like.a%", "or(id.eq.1,body.eq.a)", "body=not.eq.b"])
async def test_filters_tell_nothing_of_hidden_rows_whose_deletes_are_open(
    open_deletes: Stage, secret: str
) -> None:
    stage = open_deletes
    await stage.run(TABLE, f"insert into rls_notes values (1, '{ONE}', 'a')")
    await stage.settle()
    async with stage.client(role="authenticated", sub=TWO) as two:
        await two.subscribe("realtime:secret", on("rls_notes", filter=secret))
        await two.subscribe(TOPIC, on("rls_notes", filter="id=eq.1"))
        await stage.run("delete from rls_notes")
        await two.hears_event(TOPIC, deleted(1))
        await stage.settle()
        await two.hears_nothing(listening=True)


@both
async def test_case_89_a_role_that_may_not_read_the_key_is_sent_the_rest(
    stage: Stage, version: Version
) -> None:
    await shielded(stage, "a")
    async with stage.client(version) as client:
        await client.subscribe(TOPIC, on("shielded"))
        await stage.run("insert into shielded values (1, 'x', 'y')")
        await client.hears_event(TOPIC, Change("INSERT", "shielded", "a:text", {"a": "x"}))
        await stage.run("update shielded set a = 'z'")
        await client.hears_event(TOPIC, Change("UPDATE", "shielded", "a:text", {"a": "z"}, {}))
        await stage.run("delete from shielded")
        await client.hears_event(TOPIC, Change("DELETE", "shielded", "a:text", old_record={}))
