"""Connections against a real Postgres: TLS, and what is said of one that cannot be had."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from rowcast.db.connection import REFUSED, connect, unreachable, while_alive
from rowcast.db.pool import create_pool
from rowcast.dev.account import current_account
from rowcast.dev.postgres import Postgres, PostgresError, free_port, temporary_home
from rowcast.errors import DatabaseError
from support import databases
from support.certificates import Authority
from support.pgbouncer import pgbouncer

pytestmark = pytest.mark.anyio


@dataclass
class Encrypted:
    """A Postgres that offers TLS, and the authority that signed its certificate."""

    dsn: str
    authority: Path


@pytest.fixture
def encrypted(cluster: Callable[..., Postgres], tmp_path: Path) -> Encrypted:
    home = temporary_home()
    authority = Authority(tmp_path)
    settings = {"ssl": "on"}
    for name, path in zip(("ssl_cert_file", "ssl_key_file"), authority.sign("127.0.0.1"), strict=True):
        own = home / path.name
        own.touch(mode=0o600)
        own.write_bytes(path.read_bytes())
        current_account().give(own)
        settings[name] = str(own)
    try:
        return Encrypted(cluster(settings=settings).dsn, authority.certificate)
    except PostgresError as error:
        if "SSL is not supported by this build" in str(error):
            pytest.skip("this build of Postgres has no TLS")
        raise


def _forged(dsn: str) -> str:
    """The address with a password that is not the one."""
    return dsn.replace("@", "x@")


async def _refusal(dsn: str) -> str:
    with pytest.raises(DatabaseError) as refused:
        await connect(dsn, purpose="test")
    return str(refused.value)


async def test_a_certificate_is_verified_as_sslmode_says(
    encrypted: Encrypted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no authority of a developer's
    trusted = f"sslrootcert={encrypted.authority}"
    by_name = encrypted.dsn.replace("127.0.0.1", "localhost")
    for dsn in (
        f"{encrypted.dsn}?sslmode=require",
        f"{encrypted.dsn}?sslmode=verify-ca&{trusted}",
        f"{encrypted.dsn}?sslmode=verify-full&{trusted}",
        f"{by_name}?sslmode=verify-ca&{trusted}",
    ):
        connection = await connect(dsn, purpose="test")
        assert await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        await connection.close()
        pool = await create_pool(dsn, 1)
        assert await pool.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        await pool.close()
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "somebody else").certificate
    text = await _refusal(f"{encrypted.dsn}?sslmode=verify-ca&sslrootcert={other}")
    assert "is not to be trusted" in text
    assert "sslrootcert=" in text
    text = await _refusal(f"{by_name}?sslmode=verify-full&{trusted}")
    assert "Hostname mismatch" in text
    assert "by a name that the certificate has" in text
    assert "root certificate file" in await _refusal(f"{encrypted.dsn}?sslmode=verify-full")


async def test_tls_that_is_not_offered_and_files_that_are_not_there_are_named(
    postgres: str, tmp_path: Path
) -> None:
    assert "does not offer TLS" in await _refusal(f"{postgres}?sslmode=require")
    text = await _refusal(f"{postgres}?sslmode=verify-ca&sslrootcert={tmp_path}/missing.crt")
    assert "sslrootcert names" in text
    (tmp_path / "broken.crt").write_text("no certificate")
    assert "TLS" in await _refusal(f"{postgres}?sslmode=verify-ca&sslrootcert={tmp_path}/broken.crt")


async def test_what_postgres_refuses_for_good_is_told_from_what_may_pass(database: str) -> None:
    assert "password authentication failed" in await _refusal(_forged(database))
    assert 'database "missing" does not exist' in await _refusal(databases.address_of(database, "missing"))
    assert "nosuchthing" in await _refusal(f"{database}?nosuchthing=1")
    databases.execute(database, "create role outsider login password 'p'")
    name = database.rpartition("/")[2]
    databases.execute(database, f'revoke connect on database "{name}" from public')
    host = database.rpartition("@")[2]
    try:
        assert "permission denied" in await _refusal(f"postgresql://outsider:p@{host}")
    finally:
        databases.execute(database, f'grant connect on database "{name}" to public; drop role outsider')
    nobody = f"postgresql://me:secret@127.0.0.1:{free_port()}/app"
    with pytest.raises(REFUSED) as refused:
        await connect(nobody, purpose="test")
    text = unreachable(nobody, refused.value)
    assert text.startswith("Postgres at 127.0.0.1:")
    assert "ConnectionRefusedError" in text
    assert "secret" not in text


async def test_a_pooler_is_told_from_the_postgres_behind_it(database: str) -> None:
    with pgbouncer(database) as pooler:
        wrong = _forged(pooler.address)
        assert "refuses the connection" in await _refusal(wrong)
    # While the pooler lives and nothing is behind it, waiting may help.
    lonely = database.replace(database.rpartition(":")[2], f"{free_port()}/app")
    with pgbouncer(lonely) as pooler:
        with pytest.raises(REFUSED) as refused:
            await connect(pooler.address, purpose="test", pooled=True, timeout=5)
        assert isinstance(
            refused.value, (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, OSError)
        )


async def test_parameters_for_other_programs_are_no_hindrance(database: str) -> None:
    given = (
        "connect_timeout=5&pgbouncer=true&channel_binding=prefer&search_path=pg_catalog&application_name=me"
    )
    connection = await connect(f"{database}?{given}", purpose="test")
    assert await connection.fetchval("show search_path") == "pg_catalog"
    assert await connection.fetchval("show application_name") == "rowcast test"
    assert await connection.fetchval("show jit") == "off"
    await connection.close()


async def test_a_standby_is_refused_until_it_is_promoted(
    cluster: Callable[..., Postgres], tmp_path: Path
) -> None:
    primary = cluster(settings={"wal_level": "replica", "max_wal_senders": "3", "hot_standby": "on"})
    primary.stop()
    # A copy of its files that waits for WAL from nobody is a standby.
    (primary.data / "standby.signal").touch()
    current_account().give(primary.data / "standby.signal")
    primary.start()
    assert "is a standby" in await _refusal(primary.dsn)
    databases.execute(primary.dsn, "select pg_promote()")
    connection = await connect(primary.dsn, purpose="test")
    assert not await connection.fetchval("select pg_is_in_recovery()")
    await connection.close()


async def test_what_waits_on_a_connection_that_is_lost_waits_no_longer(migrated: str) -> None:
    connection = await connect(migrated, purpose="test", patience=30.0)
    waiting = asyncio.create_task(while_alive(connection, asyncio.sleep(600)))
    await asyncio.sleep(0)
    admin = await asyncpg.connect(migrated)
    await admin.execute("select pg_terminate_backend($1)", connection.get_server_pid())
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(30):
            await waiting
    await admin.close()


async def test_what_is_cancelled_on_a_connection_that_is_there_is_cancelled(migrated: str) -> None:
    connection = await connect(migrated, purpose="test", patience=30.0)
    waiting = asyncio.create_task(while_alive(connection, asyncio.sleep(600)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await connection.fetchval("select 1") == 1
    await connection.close()
