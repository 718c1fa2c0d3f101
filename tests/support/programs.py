"""Programs as people run them in a terminal: what they print is read as it comes, and they are typed to."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 30.0


@dataclass
class Program:
    """A running Python program."""

    process: Process
    printed: str = ""

    async def prints(self, text: str) -> None:
        """Wait until a line has this text."""
        assert self.process.stdout is not None
        line = ""
        async with asyncio.timeout(_SECONDS):
            while text not in line:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"It ended without {text!r}. It printed:\n{self.printed}"
                self.printed += line

    async def type(self, line: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    async def interrupt(self) -> int:
        """End it with Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(self.process.communicate(), _SECONDS)
        self.printed += rest.decode()
        return self.process.returncode or 0


#: What starts one: see the fixture ``start`` of the examples.
Start = Callable[..., AbstractAsyncContextManager[Program]]


@asynccontextmanager
async def run(program: Path, *arguments: str) -> AsyncIterator[Program]:
    """A program that runs while the context is open; one that runs at its end ends well on Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), *arguments, stdin=PIPE, stdout=PIPE, stderr=STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # Where the tests themselves run in the background, it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    running = Program(process)
    try:
        yield running
        if process.returncode is None:
            assert await running.interrupt() == 0, running.printed
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
