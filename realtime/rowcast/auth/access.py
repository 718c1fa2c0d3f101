"""Who may read a table as a whole: by the role's privileges, and only where no policy narrows it.

A table with row level security, and a role without SELECT, get nothing: closed, not open. Verdicts are
kept until the stream of changes says that the catalog changed: a change is judged by rights no older than its
place in the stream. They may be younger: a right given back before the change is handed out counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from rowcast.db.connection import Session
from rowcast.model.change import Relation

_RIGHTS = """
select r.rolname as role, k.oid,
       has_schema_privilege(r.oid, k.relnamespace, 'usage') as usage,
       has_table_privilege(r.oid, k.oid, 'select') as selects,
       k.relrowsecurity as rls,
       r.rolbypassrls or r.rolsuper
         or (not k.relforcerowsecurity and pg_has_role(r.oid, k.relowner, 'usage')) as bypasses,
       quote_ident(n.nspname) as schema, quote_ident(k.relname) as table, quote_ident(r.rolname) as role_name
from pg_roles as r, pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where r.rolname = any($1::text[]) and k.oid = any($2::oid[])
"""


@dataclass(frozen=True, slots=True)
class Right:
    """What a role may do with a table. ``refusal`` is None when it may read every row."""

    refusal: str | None
    bypasses: bool


class Access:
    """Verdicts by (role, table)."""

    def __init__(self, roles: Iterable[str]) -> None:
        self.roles = frozenset(roles)
        self._rights: dict[tuple[str, int], Right] = {}
        self._asked: set[int] = set()
        self._generation = 0

    def forget(self) -> None:
        """The catalog changed: ask again before the next change."""
        self._asked.clear()
        self._generation += 1

    async def load(self, connection: Session, oids: Iterable[int], *, fresh: bool = False) -> None:
        """Make sure that the rights on these tables are known. A table that is gone keeps its last
        verdict."""
        missing = list(oids) if fresh else [oid for oid in oids if oid not in self._asked]
        while missing:
            generation = self._generation
            found = await connection.fetch(_RIGHTS, list(self.roles), missing)
            # What was read before the catalog changed must not stand over what is read after it.
            if generation != self._generation:
                continue
            for record in found:
                self._rights[record["role"], record["oid"]] = _right(record)
            # A role that is gone may read nothing; a table that is gone keeps its last verdict.
            known = {(record["role"], record["oid"]) for record in found}
            for oid in {record["oid"] for record in found}:
                for role in self.roles:
                    if (role, oid) not in known:
                        self._rights.pop((role, oid), None)
            self._asked.update(missing)
            return

    def refusal(self, role: str, oid: int) -> str | None:
        """Why a role may not read a table, in a sentence that says how to mend it; None when it may."""
        right = self._rights.get((role, oid))
        if right is None:
            return f'the role "{role}" does not exist in the database'
        return right.refusal

    def may_read(self, role: str, relation: Relation) -> bool:
        """Whether a role may read every row of a relation as it was when the row was written."""
        right = self._rights.get((role, relation.oid))
        return right is not None and right.refusal is None and (not relation.rls or right.bypasses)


def _right(record: asyncpg.Record) -> Right:
    table = f"{record['schema']}.{record['table']}"
    role = record["role_name"]
    if not record["usage"]:
        refusal = (
            f"the role {role} may not use its schema: GRANT USAGE ON SCHEMA {record['schema']} TO {role};"
        )
    elif not record["selects"]:
        refusal = f"the role {role} may not read it: GRANT SELECT ON {table} TO {role};"
    elif record["rls"] and not record["bypasses"]:
        refusal = f"it has row level security, which this server does not evaluate for the role {role}"
    else:
        refusal = None
    return Right(refusal, record["bypasses"])
