"""The command line as a process of its own, run to its end."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_SECONDS = 60.0


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    error: str


async def run(folder: Path, settings: Mapping[str, str], *arguments: str, seconds: float = _SECONDS) -> Ended:
    """Run ``rowcast`` with these settings, in a folder without a developer's .env file."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rowcast.cli.main", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "COLUMNS": "200", **settings},
        cwd=folder,
    )
    try:
        async with asyncio.timeout(seconds):
            out, error = await process.communicate()
    except BaseException:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), error.decode())
