"""How roles may read tables: by their privileges on it, or on some of its columns.

Where row level security is on, for a role that does not bypass it, each row is to be judged: see
``auth.visibility``. A role without SELECT gets nothing. Verdicts are kept until the stream of changes says
that the catalog changed: a change is judged by rights no older than its place in the stream. They may be
younger: a right given back before the change is handed out counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from rowcast.db.connection import Session
from rowcast.model.change import Relation
from rowcast.model.reading import Reading

_RIGHTS = """
select r.rolname as role, k.oid,
       has_schema_privilege(r.oid, k.relnamespace, 'usage') as usage,
       has_table_privilege(r.oid, k.oid, 'select') as selects,
       case when not has_table_privilege(r.oid, k.oid, 'select') then array(
         select a.attname::text from pg_attribute as a
         where a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped
           and has_column_privilege(r.oid, k.oid, a.attnum, 'select')) end as columns,
       k.relrowsecurity as rls,
       r.rolbypassrls or r.rolsuper
         or (not k.relforcerowsecurity and pg_has_role(r.oid, k.relowner, 'usage')) as bypasses,
       quote_ident(n.nspname) as schema, quote_ident(k.relname) as table, quote_ident(r.rolname) as role_name
from pg_roles as r, pg_class as k join pg_namespace as n on n.oid = k.relnamespace
where r.rolname = any($1::text[]) and k.oid = any($2::oid[])
"""


@dataclass(frozen=True, slots=True)
class Right:
    """What a role may do with a table. ``refusal`` says why it may read nothing, or is None.

    ``columns`` are those it may read, None for all; ``bypasses`` says that no policy narrows its rows.
    """

    refusal: str | None
    bypasses: bool
    rls: bool
    columns: frozenset[str] | None


class Access:
    """Verdicts by (role, table).

    With ``open_deletes``, a DELETE under row level security is told to all who may read the table, by its
    primary key.
    """

    def __init__(self, roles: Iterable[str], *, open_deletes: bool = False) -> None:
        self.roles = frozenset(roles)
        #: Whether rows can be judged. If not, a role for which they would have to be reads nothing.
        self.judges = True
        self._open_deletes = open_deletes
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
        if right.refusal is None and right.rls and not right.bypasses and not self.judges:
            return _UNJUDGED
        return right.refusal

    def columns(self, role: str, oid: int) -> frozenset[str] | None:
        """The columns of a table that a role may read; None for all, and where it may read nothing."""
        right = self._rights.get((role, oid))
        return None if right is None or right.refusal is not None else right.columns

    def may_read(self, role: str, relation: Relation) -> Reading | None:
        """How a role may read rows of a version of a table; None where it may not.

        Rows that were written under row level security are judged, whatever became of that since.
        """
        right = self._rights.get((role, relation.oid))
        if right is None or right.refusal is not None:
            return None
        rls = relation.rls or right.rls
        judged = rls and not right.bypasses
        if judged and not self.judges:
            return None
        open_deletes = rls and self._open_deletes
        if right.columns is None:
            return Reading(judged, open_deletes=open_deletes) if rls else _WHOLE
        hidden = frozenset(one.name for one in relation.columns if one.name not in right.columns)
        return Reading(judged, hidden, open_deletes)


_WHOLE = Reading()
_UNJUDGED = (
    "it has row level security, which is judged in a session of its own, and DATABASE_URL leads to a pooler: "
    "set ROWCAST_DIRECT_URL to Postgres itself"
)


def _right(record: asyncpg.Record) -> Right:
    table = f"{record['schema']}.{record['table']}"
    role = record["role_name"]
    if not record["usage"]:
        refusal = (
            f"the role {role} may not use its schema: GRANT USAGE ON SCHEMA {record['schema']} TO {role};"
        )
    elif not record["selects"] and not record["columns"]:
        refusal = f"the role {role} may not read it: GRANT SELECT ON {table} TO {role};"
    else:
        refusal = None
    columns = None if record["selects"] else frozenset(record["columns"])
    return Right(refusal, record["bypasses"], record["rls"], columns)
