"""What the READMEs print runs as printed."""

import asyncio
import itertools
import os
import re
import sys
from pathlib import Path

import asyncpg
import pytest

from support.server import Server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("readme", ["README.md", "sdk/README.md"])
async def test_the_first_subscription_shows_a_change(server: Server, readme: str) -> None:
    program, *_ = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    program = program.replace("http://localhost:4000", server.url).replace("YOUR_ANON_KEY", server.token())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", program, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    connection = await asyncpg.connect(server.database)
    try:
        assert process.stdout is not None
        shown = asyncio.ensure_future(process.stdout.readline())
        async with asyncio.timeout(30):
            # It says nothing before its first change: write until it does.
            for number in itertools.count():
                await connection.execute(
                    "insert into todos (id, task) values ($1, 'from the README')", number
                )
                if (await asyncio.wait({shown}, timeout=0.2))[0]:
                    break
        assert b"from the README" in shown.result()
        assert b"INSERT" in shown.result()
    finally:
        process.kill()
        await process.wait()
        await connection.close()
