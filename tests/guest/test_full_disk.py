"""A disk that fills: writes fail for as long as they would without us, and everything goes on afterwards."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from rowcast.db.migrations import migrate
from rowcast.dev.postgres import Postgres
from support.streams import streaming, subscribed

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder of 32 MB, which a Postgres of the test's own may write."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = Path(tempfile.mkdtemp(prefix="small-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m,mode=0777", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        place.rmdir()
        pytest.skip("no disk can be mounted here")
    place.chmod(0o777)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


async def test_a_full_disk_fails_writes_loses_nothing_and_is_survived(
    cluster: Callable[..., Postgres], small_disk: Path
) -> None:
    server = cluster()
    space = small_disk / "space"
    space.mkdir()
    owner = server.data.stat()
    os.chown(space, owner.st_uid, owner.st_gid)
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(f"create tablespace small location '{space}'")
    await admin.execute("create database small tablespace small")
    await admin.close()
    dsn = server.dsn_of("small")
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "create table things (id bigint primary key, text text); grant select on things to service_role;"
        "alter publication supabase_realtime add table things"
    )
    async with streaming(dsn) as stream:
        kept = await subscribed(stream, "things")
        await connection.execute("insert into things values (0, 'before')")
        await kept.until(lambda: len(kept.changes) == 1)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        committed, failed = [0], 0
        for n in range(1, 2000):
            try:
                await connection.execute("insert into things values ($1, repeat('x', 1000))", n)
                committed.append(n)
            except asyncpg.DiskFullError:
                failed += 1
                if failed == 20:
                    break
        assert failed == 20
        # Reads go on, and so does what was committed.
        assert await connection.fetchval("select count(*) from things") == len(committed)
        filler.unlink()
        await connection.execute("insert into things values (-1, 'after')")
        await kept.until(lambda: kept.changes[-1]["record"]["id"] == -1)
        assert [change["record"]["id"] for change in kept.changes] == [*committed, -1]
        assert kept.losses == 0
    await connection.close()
