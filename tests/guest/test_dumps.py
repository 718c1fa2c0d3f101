"""Dumps of a captured database: restored with and without what belongs to Rowcast."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from support.postgres import binaries
from support.streams import streaming, subscribed

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

Cluster = Callable[..., Postgres]
TABLE = """
create table things (id bigint primary key);
grant select on things to service_role;
alter publication supabase_realtime add table things;
select rowcast.renew_lease(36000);
insert into things values (1), (2);
update rowcast.trimmed set xid = pg_current_xact_id();
insert into things values (3);
"""
# The new cluster's transactions have lower numbers.
BURN = "do $$ begin for i in 1..3000 loop perform pg_current_xact_id(); commit; end loop; end $$"


def program(name: str) -> str:
    """One of Postgres' own programs; not every build brings the clients."""
    found = Path(binaries().folder) / name
    if not found.exists():
        pytest.skip(f"this Postgres comes without {name}")
    return str(found)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program, and say what it printed when it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def captured(server: Postgres) -> None:
    """Migrate, capture, and leave changes in the outbox."""
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(BURN)
    await migrate(server.dsn)
    await connection.execute(TABLE)
    await connection.close()


async def test_a_dump_without_owners_and_privileges_restores_where_no_role_is_and_capture_begins_anew(
    cluster: Cluster, tmp_path: Path
) -> None:
    old, new, dump = cluster(), cluster(), str(tmp_path / "dump.sql")
    await captured(old)
    flags = ("--no-owner", "--no-privileges")
    assert run(program("pg_dump"), *flags, "-f", dump, old.dsn).returncode == 0
    restored = run(program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, new.dsn)
    assert restored.returncode == 0, restored.stderr
    await migrate(new.dsn)
    connection = await asyncpg.connect(new.dsn)
    await connection.execute("grant select on things to service_role")
    async with streaming(new.dsn) as stream:
        kept = await subscribed(stream, "things")
        await connection.execute("insert into things values (4)")
        await kept.until(lambda: len(kept.changes) >= 1)
        await connection.execute("insert into things values (5)")
        await kept.until(lambda: len(kept.changes) >= 2)
        assert [change["record"]["id"] for change in kept.changes] == [4, 5]
        assert kept.losses == 0
    values = "select value from rowcast.epoch"
    source = await asyncpg.connect(old.dsn)
    assert await connection.fetchval(values) != await source.fetchval(values)
    await source.close()
    await connection.close()


async def test_a_dump_without_our_schema_restores_all_but_its_triggers(
    cluster: Cluster, tmp_path: Path
) -> None:
    old, new, dump = cluster(), cluster(), str(tmp_path / "dump.sql")
    await captured(old)
    flags = ("--no-owner", "--no-privileges", "--exclude-schema=rowcast")
    assert run(program("pg_dump"), *flags, "-f", dump, old.dsn).returncode == 0
    restored = run(program("psql"), "-q", "-f", dump, new.dsn)
    assert restored.returncode == 0
    errors = [line for line in restored.stderr.splitlines() if "ERROR" in line]
    assert errors
    assert all("rowcast" in line for line in errors), errors
    connection = await asyncpg.connect(new.dsn)
    assert await connection.fetchval("select array_agg(id order by id) from things") == [1, 2, 3]
    await connection.execute("insert into things values (4); update things set id = 5 where id = 4")
    await connection.close()


async def test_a_dump_of_one_table_restores_where_rowcast_is_not(cluster: Cluster, tmp_path: Path) -> None:
    old, new, dump = cluster(), cluster(), str(tmp_path / "dump.sql")
    await captured(old)
    for section in ("pre-data", "data"):
        flags = ("--no-owner", "--no-privileges", f"--section={section}", "-t", "things")
        assert run(program("pg_dump"), *flags, "-f", dump, old.dsn).returncode == 0
        restored = run(program("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, new.dsn)
        assert restored.returncode == 0, restored.stderr
    connection = await asyncpg.connect(new.dsn)
    assert await connection.fetchval("select count(*) from things") == 3
    await connection.close()


async def test_a_copy_of_the_database_begins_anew(cluster: Cluster) -> None:
    server = cluster()
    await captured(server)
    admin = await asyncpg.connect(server.dsn_of("template1"))
    await admin.execute("create database copied template postgres")
    await admin.close()
    async with streaming(server.dsn_of("copied")) as stream:
        kept = await subscribed(stream, "things")
        connection = await asyncpg.connect(server.dsn_of("copied"))
        await connection.execute("insert into things values (4)")
        await kept.until(lambda: len(kept.changes) >= 1)
        assert [change["record"]["id"] for change in kept.changes] == [4]
        await connection.close()
