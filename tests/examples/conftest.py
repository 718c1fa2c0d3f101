"""What the tests of the examples share: one server that has their pages, and one browser."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from support import databases
from support.browsers import Browser, Look, Window, chromium
from support.programs import Program, Start, run
from support.server import Server
from support.tokens import make_token

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
async def site(
    postgres: str,
    migrated_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Server]:
    """A server with the examples' pages, and what their setup.sql makes."""
    name = next(database_names)
    dsn = databases.create(postgres, name, template=migrated_template)
    for script in sorted(EXAMPLES.glob("*/setup.sql")):
        for _ in range(2):  # as at a second start
            databases.execute(dsn, script.read_text())
    log = tmp_path_factory.mktemp("examples") / "server.log"
    server = Server(dsn, log, {"ROWCAST_PAGES": str(EXAMPLES)})
    await server.start()
    yield server
    await server.end()
    databases.drop(postgres, name)


@pytest.fixture(scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
async def look(site: Server, browser: Browser) -> AsyncIterator[Look]:
    """Open a window, and wait until it is connected: ``await look("chat", "ann")``. The test closes it."""
    windows: list[Window] = []

    async def at(example: str, name: str, status: str = "connected", **given: str) -> Window:
        fragment = urlencode({"key": make_token(), "name": name, **given})
        window = await browser.window(f"{site.url}/pages/{example}/#{fragment}")
        windows.append(window)
        await window.until(f"document.querySelector('#status')?.innerText === '{status}'")
        return window

    yield at
    for window in windows:
        await window.close()
    assert [fault for window in windows for fault in window.faults] == []


@pytest.fixture
def start(site: Server) -> Start:
    """Start the program of an example, as ``make`` says how: ``async with start("chat", "ann") as ann``."""

    def of(example: str, name: str, token: str | None = None) -> AbstractAsyncContextManager[Program]:
        given = ("--name", name) if token is None else ("--name", name, "--token", token)
        return run(EXAMPLES / example / f"{example}.py", site.url, make_token(), *given)

    return of
