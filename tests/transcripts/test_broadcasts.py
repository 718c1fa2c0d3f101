"""Conversations about broadcasts that were had with the original, against the real server, frame for frame.

Where this server says something else, a line has what was seen, what is right ``here``, and why.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from rowcast.protocol.messages import Version
from support.serving import PATIENCE
from support.tokens import make_token
from transcripts.stage import Stage, both
from transcripts.steps import on

pytestmark = pytest.mark.anyio

Lines = list[dict[str, Any]]


def _read() -> dict[str, Lines]:
    found: dict[str, Lines] = {}
    for line in (Path(__file__).parent / "broadcasts.jsonl").read_text().splitlines():
        step = json.loads(line)
        if "conversation" in step:
            lines = found[step["conversation"]] = []
        else:
            lines.append(step)
    return found


CONVERSATIONS = _read()


class Party:
    """The clients of a conversation, each connected when it first says something."""

    def __init__(self, stage: Stage, stack: contextlib.AsyncExitStack) -> None:
        self._stage, self._stack = stage, stack
        self._roles: dict[str, str] = {}
        self._clients: dict[str, ClientConnection] = {}

    async def step(self, line: dict[str, Any]) -> None:
        if "role" in line:
            self._roles[line["c"]] = line["role"]
        elif "sql" in line:
            await self._stage.run(line["sql"])
        elif "request" in line:
            await self._ask(line)
        elif ">" in line:
            await self._say(line["c"], line[">"], line.get("repeat", 1))
        elif "closed" in line:
            with pytest.raises(websockets.ConnectionClosed):
                await self._hear(line["c"])
            assert self._clients.pop(line["c"]).close_code == line["closed"]
        elif (expected := line.get("here", line.get("<"))) is not None:
            assert await self._hear(line["c"]) == _frame(expected)

    async def end(self) -> None:
        """Nobody has anything more to hear: the answer to a heartbeat is next."""
        for client in self._clients.values():
            await client.send('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"beat"}')
            await client.send('[null,"beat","phoenix","heartbeat",{}]')
            assert '"beat"' in str(await asyncio.wait_for(client.recv(), PATIENCE))

    async def _hear(self, name: str) -> str | bytes:
        return await asyncio.wait_for(self._clients[name].recv(), PATIENCE)

    async def _say(self, name: str, said: Any, repeat: int) -> None:
        if name not in self._clients:
            token = make_token(self._roles.get(name, "anon"))
            vsn = "1.0.0" if "topic" in said else "2.0.0"
            address = f"{self._stage.server.websocket}?apikey={token}&vsn={vsn}"
            connection = connect(address, max_size=None)
            self._clients[name] = await self._stack.enter_async_context(connection)
        frame = _frame(said)
        if isinstance(frame, str):
            frame = frame.replace('"y"', f'"{"y" * repeat}"')
            frame = frame.replace("TOKEN", make_token("authenticated", again=True))
        # What is too large is refused before all of it was sent.
        with contextlib.suppress(websockets.ConnectionClosed):
            await self._clients[name].send(frame)

    async def _ask(self, line: dict[str, Any]) -> None:
        token = {"bad": make_token(secret="the-secret-of-some-other-project-entirely")}.get(
            line.get("token", ""), make_token()
        )
        headers = {"authorization": f"Bearer {token}"} if line.get("bearer") else {"apikey": token}
        if "token" in line and line["token"] is None:
            headers = {}
        headers["content-type"] = line.get("type", "application/json")
        content = bytes.fromhex(line["hex"]) if "hex" in line else line.get("text") or _text(line["json"])
        url = f"{self._stage.server.url}/api/broadcast{line.get('path', '')}"
        async with httpx.AsyncClient(verify=False) as client:
            answer = await client.post(url, content=content, headers=headers)
        assert (answer.status_code, answer.text) == (line["status"], line.get("here", line["body"]))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _frame(value: Any) -> str | bytes:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) and "hex" in value else _text(value)


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_a_conversation_about_broadcasts_is_had_as_it_was_seen(stage: Stage, name: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        party = Party(stage, stack)
        for line in CONVERSATIONS[name]:
            await party.step(line)
        await party.end()


def test_where_the_original_is_said_to_differ_it_does() -> None:
    lines = [line for conversation in CONVERSATIONS.values() for line in conversation if "here" in line]
    assert len(lines) == 3
    for line in lines:
        assert line["here"] != line.get("<", line.get("body"))
        assert line["why"].endswith(".")


POLICIES = """
create policy reads on realtime.messages for select to authenticated using (true);
create policy writes on realtime.messages for insert to authenticated
with check (realtime.topic() in ('one', 'a:b') and auth.uid() = '11111111-1111-1111-1111-111111111111')
"""
USER = "11111111-1111-1111-1111-111111111111"
ACKED = {"private": True, "broadcast": {"ack": True, "self": True}}
DENIED = "Unauthorized: You do not have permissions to write to this Channel topic"


@pytest.fixture
async def ruled(stage: Stage) -> AsyncIterator[Stage]:
    """The stage with policies: who is somebody may read all, and one user write to two topics."""
    await stage.run(POLICIES)
    yield stage
    await stage.run("drop policy reads on realtime.messages; drop policy writes on realtime.messages")


@both
async def test_case_47_policies_decide_who_writes_where(ruled: Stage, version: Version) -> None:
    async with (
        ruled.client(version, "authenticated", sub=USER) as writer,
        ruled.client(version, "authenticated", sub=USER.replace("1", "2")) as reader,
    ):
        for topic in ("realtime:one", "realtime:a:b", "realtime:other"):
            for client in (writer, reader):
                await client.join(topic, config=ACKED)
        for client, topic, may in (
            (writer, "realtime:one", True), (writer, "realtime:a:b", True),
            (writer, "realtime:other", False), (reader, "realtime:one", False),
        ):  # fmt: skip
            await client.say(topic, "broadcast", {"event": "e"}, "2", "1")
            if may:
                for one in (writer, reader):
                    await one.hears(topic, "broadcast", {"event": "e"}, None, None)
                answer: Any = {"status": "ok", "response": {}}
            else:
                reason = f"{DENIED}: {topic.removeprefix('realtime:')}"
                answer = {"status": "error", "response": {"reason": reason}}
            await client.hears(topic, "phx_reply", answer, "2", "1")
        for client in (writer, reader):
            await client.hears_nothing(listening=False)


async def test_case_53_policies_decide_what_a_request_may_send(ruled: Stage) -> None:
    mine = {"apikey": make_token("authenticated", sub=USER)}
    batch: list[Any] = [
        {"topic": name, "event": "e", "payload": {}, "private": True} for name in ("other", "one")
    ]
    address = f"{ruled.server.url}/realtime/v1/api/broadcast"
    async with (
        ruled.client(role="authenticated") as reader,
        httpx.AsyncClient(verify=False) as client,
    ):
        for topic in ("realtime:one", "realtime:other"):
            await reader.join(topic, config={"private": True})
        for headers, status in ((mine, 202), ({"apikey": make_token()}, 403)):
            answer = await client.post(address, json={"messages": batch}, headers=headers)
            assert answer.status_code == 202
            answer = await client.post(f"{address}/one/events/f?private=true", json={}, headers=headers)
            assert answer.status_code == status
        payload = {"event": "e", "payload": {}, "type": "broadcast"}
        await reader.hears("realtime:one", "broadcast", payload, None, None)
        assert await reader.connection.recv() == b"\x04\x0c\x01\x00\x01realtime:onef{}"
        await reader.hears_nothing(listening=False)


async def test_case_94_no_change_is_dropped_however_many_there_are(stage: Stage) -> None:
    """There, changes over `max_events_per_second` are dropped without a word."""
    async with stage.client() as client:
        await client.subscribe("realtime:many", on("fullident", "INSERT"))
        await stage.run("insert into fullident select n, 'x' from generate_series(1, 7000) as n")
        await stage.settle()
        assert await client.rows("realtime:many") == [("INSERT", number) for number in range(1, 7001)]
    await stage.run("truncate fullident")
