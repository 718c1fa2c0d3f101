"""No password of a database reaches a log, an error or the table of settings, whatever is in it."""

import asyncio
import io
import logging
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rowcast.capture.parts import Parts
from rowcast.cli.main import app
from rowcast.db.connection import connect, unreachable
from rowcast.db.opening import Opening
from rowcast.db.pool import create_pool
from rowcast.errors import SettingsError
from rowcast.listing import describe
from rowcast.runtime import configure_logging
from rowcast.settings import load
from support import databases
from support.addresses import NEEDLE, addresses
from support.tokens import SECRET
from support.waiting import until

_EXAMPLES = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env file of a developer's
    monkeypatch.setenv("ROWCAST_JWT_SECRET", SECRET)


@_EXAMPLES
@given(address=addresses(), other=st.one_of(st.none(), addresses()))
def test_settings_show_no_password_in_errors_and_in_their_table(address: str, other: str | None) -> None:
    try:
        found = load(database_url=address, direct_url=other)
    except SettingsError as error:
        shown = f"{error}{error!r}{''.join(traceback.format_exception(error))}"
    else:
        shown = f"{found}{found!r}{found.model_dump()}{found.model_dump_json()}{describe(found, {})}"
    assert NEEDLE not in shown


@_EXAMPLES
@given(address=addresses(), command=st.sampled_from((["settings"], ["settings", "--json"], ["tables"])))
def test_commands_show_no_password(address: str, command: list[str]) -> None:
    """Nobody listens at the address: a command with a good one fails to connect."""
    ended = CliRunner().invoke(app, command, env={"DATABASE_URL": address, "COLUMNS": "500"})
    trace = "" if ended.exc_info is None else "".join(traceback.format_exception(*ended.exc_info))
    assert NEEDLE not in ended.output + trace
    assert "Traceback" not in ended.output
    assert ended.exit_code in (0, 1, 2)


async def _open_and_work(address: str) -> str:
    """Everything that a server says while it cannot connect, and the errors themselves."""
    said = []
    opening = Opening(address, address, migrates=True)
    parts = Parts(address, ["reader"], lambda reason: None)

    tried = asyncio.Event()

    async def work() -> None:
        if parts.faults() and tried.is_set():
            await asyncio.Event().wait()
        try:
            await connect(address, purpose="reader", timeout=5)
        finally:
            tried.set()

    async def until_tried() -> None:
        await tried.wait()

        async def looked() -> bool:
            return "being looked at" not in str(opening.faults())

        await until(looked)

    tasks = [asyncio.ensure_future(one) for one in (opening.run(), parts.forever("reader", work))]
    trying = asyncio.ensure_future(until_tried())
    # The opening ends by itself where waiting would mend nothing.
    await asyncio.wait([trying, tasks[0]], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    for running in (trying, *tasks):
        running.cancel()
        for error in await asyncio.gather(running, return_exceptions=True):
            if isinstance(error, Exception):
                said.append("".join(traceback.format_exception(error)))
    said += [str(opening.faults()), str(parts.faults())]
    try:
        await (await create_pool(address, 1)).fetchval("select 1")
    except Exception as error:
        said += ["".join(traceback.format_exception(error)), unreachable(address, error)]
    return "\n".join(said)


@pytest.mark.parametrize("where", ["nobody", "postgres"])
@settings(_EXAMPLES, max_examples=15)
@given(data=st.data())
def test_a_server_that_cannot_connect_says_no_password(
    postgres: str, where: str, data: st.DataObject
) -> None:
    """Neither where nobody listens, nor to a Postgres that knows another password."""
    host = postgres.rpartition("@")[2].partition("/")[0] if where == "postgres" else "127.0.0.1:1"
    address = data.draw(addresses(host, good=True))
    assert load(database_url=address).dsn == address
    out = io.StringIO()
    try:
        with redirect_stderr(out), redirect_stdout(out):
            configure_logging("debug")
            said = databases.run_apart(_open_and_work(address))
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
        logging.getLogger().setLevel(logging.WARNING)
    assert NEEDLE not in out.getvalue() + said
    assert said
