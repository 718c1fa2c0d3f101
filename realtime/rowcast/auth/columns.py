"""Which columns of a table a role may read: for cutting the others out of what is sent."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from rowcast.db.connection import Session

# A right on the table counts for columns that were dropped since, too: their names are not known any more.
_READABLE: Final = """
select r.rolname as role, k.oid, has_table_privilege(r.oid, k.oid, 'select') as every,
       (select coalesce(array_agg(a.attname::text), '{}') from pg_catalog.pg_attribute as a
        where a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped
          and has_column_privilege(r.oid, k.oid, a.attnum, 'select')) as columns
from pg_catalog.pg_roles as r, pg_catalog.pg_class as k
where r.rolname = any($1::text[]) and k.oid = any($2::oid[])
"""

#: The names of columns; None for every column, also those of older versions of the table.
Readable = frozenset[str] | None


async def readable_columns(
    connection: Session, roles: Collection[str], oids: Iterable[int]
) -> Mapping[tuple[str, int], Readable]:
    """What each role may read of each table, by (role, oid). A role or a table that is gone is left out.

    A column of an older version that is not among the names now is not to be shown.
    """
    rows = await connection.fetch(_READABLE, list(roles), list(oids))
    return {
        (row["role"], row["oid"]): None if row["every"] else frozenset[str](row["columns"]) for row in rows
    }
