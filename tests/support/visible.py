"""Tables with policies, the images of their rows, and what Postgres itself lets a role select of them."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg

from rowcast.auth.visibility import SEARCH_PATH, Visibility
from rowcast.capture.relations import Relations
from rowcast.model.change import Relation
from rowcast.model.claims import Subject

ROLES = ("anon", "authenticated", "service_role")


def subject(role: str = "anon", **claims: object) -> Subject:
    """A role with these claims."""
    return Subject(role, json.dumps({"role": role, **claims}))


async def version(connection: asyncpg.Connection, table: str, root: str = "") -> Relation:
    """The version of a table as it looks now. ``root`` is the table that its changes are reported for."""
    id_ = await connection.fetchval(
        "select rowcast.relation_version($1::text::regclass, $2::text::regclass, null)", table, root or table
    )
    relations = Relations()
    await relations.load(connection, [id_])
    return relations[id_]


async def images(connection: asyncpg.Connection, table: str, order: str = "id") -> list[str]:
    """The rows of a table as triggers write them."""
    async with _gone(connection):
        await connection.execute("select rowcast.pin('all')")
        rows = await connection.fetch(
            f"select row_to_json(t.*)::text as t from {table} as t order by {order}"
        )
        return [row["t"] for row in rows]


async def selected(
    connection: asyncpg.Connection, subject: Subject, table: str, ids: Iterable[object], key: str = "id"
) -> str:
    """What a session with that role and those claims finds, as a letter for each key; `e` for an error."""
    async with _gone(connection):
        await connection.execute(f"set local search_path = {SEARCH_PATH}")
        claims = json.loads(subject.claims)
        await connection.execute(
            "select set_config('request.jwt.claims', $1, true),"
            " set_config('request.jwt.claim.sub', $2, true),"
            " set_config('request.jwt.claim.role', $3, true), set_config('role', $3, true)",
            subject.claims,
            str(claims.get("sub", "")),
            subject.role,
        )
        rows = await connection.fetch(f'select "{key}" as key from {table}')
    found = {row["key"] for row in rows}
    return "".join("1" if id_ in found else "0" for id_ in ids)


async def lines(
    visibility: Visibility,
    connection: asyncpg.Connection,
    relation: Relation,
    images: list[str],
    *subjects: Subject,
) -> list[str]:
    """What is answered for each subject."""
    verdicts = await visibility.judge(connection, relation, images, subjects)
    return [verdicts.lines[one] for one in subjects]


@asynccontextmanager
async def _gone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def agrees(
    admin: asyncpg.Connection, judging: asyncpg.Connection, *subjects: Subject, table: str = "notes"
) -> list[str]:
    """What is answered, once it is known to be what a session would find."""
    relation = await version(admin, table)
    rows = await images(admin, table)
    visibility = Visibility(ROLES)
    verdicts = await visibility.judge(judging, relation, rows, subjects)
    answered = [verdicts.lines[one] for one in subjects]
    ids = [json.loads(row)["id"] for row in rows]
    assert answered == [await selected(admin, one, table, ids) for one in subjects]
    return answered
