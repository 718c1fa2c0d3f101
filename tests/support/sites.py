"""Databases with an owner of a certain kind, in a cluster of their own, and a picture of what is in them."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from rowcast.dev.postgres import Postgres
from support import databases

#: How the role that migrates is made. The first is a superuser's own.
OWNERS = {
    "superuser": "create role app login superuser password 'app'",
    "owner": "create role app login password 'app'",
    "creator": "create role app login createrole password 'app'",
}
# Since 2025 a dump has a key of its own in these two lines.
_RESTRICT = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)
# For where pg_dump is not to be had, and beside it.
_CATALOG = """
select 'role', rolname, concat_ws(' ', rolsuper, rolcreaterole, rolbypassrls, rolcanlogin) from pg_roles
union all select 'member', m.roleid::regrole::text, m.member::regrole::text from pg_auth_members as m
union all select 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner))::text
  from pg_namespace where nspname !~ '^pg_'
union all select 'table', oid::regclass::text, concat_ws(' ', relkind, relreplident, relowner::regrole,
    coalesce(relacl, acldefault('r', relowner))::text)
  from pg_class where relnamespace::regnamespace::text !~ '^(pg_.*|information_schema)$'
union all select 'function', oid::regprocedure::text, md5(prosrc) from pg_proc
  where pronamespace::regnamespace::text !~ '^(pg_.*|information_schema)$'
union all select 'trigger', tgrelid::regclass::text, tgname from pg_trigger
union all select 'event trigger', evtname, null from pg_event_trigger
union all select 'publication', pubname, pubowner::regrole::text from pg_publication
union all select 'published', pubname, schemaname || '.' || tablename from pg_publication_tables
union all select 'comment', classoid::regclass::text, description from pg_description
  where objoid >= 16384
order by 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A database with an owner: the owner's address, and a superuser's."""

    owner: str
    admin: str


class ScriptError(Exception):
    """What psql, or Postgres, said."""


class Sites:
    """Makes databases in a cluster; all have the same owner, ``app``."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._count = 0

    def make(self, kind: str) -> Site:
        """A new database, whose owner is made by a name of OWNERS unless it is there already."""
        databases.execute(
            self.server.dsn,
            f"do $$ begin if not exists (select from pg_roles where rolname = 'app') then {OWNERS[kind]};"
            " end if; end $$",
        )
        name = f"site{self._count}"
        self._count += 1
        databases.execute(self.server.dsn, f"create database {name} owner app")
        admin = self.server.dsn_of(name)
        parts = urlsplit(admin)
        return Site(urlunsplit(parts._replace(netloc=f"app:app@{parts.hostname}:{parts.port}")), admin)

    def run(self, dsn: str, text: str) -> None:
        """Run a script as an administrator does: with psql, or without it where it is not to be had."""
        psql = self.server.binaries.folder / "psql"
        if not psql.exists():
            try:
                databases.execute(dsn, text.replace("\\set ON_ERROR_STOP on\n", ""))
            except asyncpg.PostgresError as error:
                raise ScriptError(str(error)) from None
            return
        command: list[str | Path] = [psql, "--no-psqlrc", "--quiet", "--dbname", dsn, "--file", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ScriptError(done.stderr)

    async def picture(self, site: Site) -> list[str]:
        """Everything that a database is but its rows, with the roles of its cluster: as dumps tell it, where
        those programs are to be had, and as the catalog does."""
        connection = await asyncpg.connect(site.admin)
        try:
            rows = [str(tuple(row)) for row in await connection.fetch(_CATALOG)]
        finally:
            await connection.close()
        return [*rows, *self._dump("pg_dump", site), *self._dump("pg_dumpall", site)]

    def _dump(self, program: str, site: Site) -> list[str]:
        path = self.server.binaries.folder / program
        if not path.exists():
            return []
        what = {"pg_dump": ["--schema-only", site.admin], "pg_dumpall": ["--roles-only", "-d", site.admin]}
        done = subprocess.run([path, *what[program]], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return _RESTRICT.sub("", done.stdout).splitlines()


async def clear(dsn: str) -> None:
    """Drop the databases that Sites made, and every role but the superuser's."""
    connection = await asyncpg.connect(dsn)
    try:
        for row in await connection.fetch("select datname from pg_database where datname like 'site%'"):
            await connection.execute(f"drop database {row[0]} with (force)")
        for row in await connection.fetch(
            "select quote_ident(rolname) from pg_roles where rolname !~ '^pg_' and oid <> 10"
        ):
            await connection.execute(f"drop role {row[0]}")
    finally:
        await connection.close()
