"""Each conversation is had with this server, in both versions, and compared with what the original said."""

import contextlib
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import pytest

from rowcast.protocol.messages import Version
from support.tokens import make_token
from transcripts.conversations import CONVERSATIONS
from transcripts.differences import OTHERS_DELETES, Difference
from transcripts.frames import OK, Change
from transcripts.policies import POLICIES
from transcripts.stage import Client, Stage, both, open_stage
from transcripts.steps import Conversation, Differs, Events, Joins, Refreshes, Runs

pytestmark = pytest.mark.anyio


@both
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.name)
async def test_a_conversation_goes_as_it_was_seen(
    stage: Stage, conversation: Conversation, version: Version
) -> None:
    await had(stage, conversation, version)


@both
async def test_with_open_deletes_they_go_as_they_were_seen(
    migrated: str, tmp_path: Path, version: Version
) -> None:
    async with open_stage(migrated, tmp_path / "server.log", ROWCAST_OPEN_DELETES="true") as stage:
        await had(stage, POLICIES, version, without=(OTHERS_DELETES,))


async def had(
    stage: Stage, conversation: Conversation, version: Version, without: Collection[Difference] = ()
) -> None:
    """Have a conversation; ``without`` are differences that this server does not have now."""

    def right(step: Joins | Refreshes | Runs) -> Events:
        if isinstance(step.heard, Differs):
            return step.heard.there if step.heard.why in without else step.heard.here
        return step.heard

    await stage.run(conversation.setup)
    await stage.settle()
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        listening: set[str] = set()
        for step in conversation.steps:
            match step:
                case Joins(topic, entries):
                    if step.client not in clients:
                        opened = await stack.enter_async_context(
                            stage.client(version, step.role, **step.claims)
                        )
                        clients[step.client] = opened
                    client = clients[step.client]
                    await client.join(topic, *entries)
                    for event in right(step):
                        await client.hears_event(topic, event)
                    if OK in right(step):
                        listening.add(step.client)
                case Refreshes(topic):
                    token = {"access_token": make_token(step.role, **step.claims)}
                    await clients[step.client].say(topic, "access_token", token, "9")
                    for event in right(step):
                        await clients[step.client].hears_event(topic, event)
                case Runs(sql):
                    await stage.run(sql)
                    await _hear(clients, right(step))
            if not isinstance(step, Runs) or step.quiet:
                await stage.settle()
                for name, client in clients.items():
                    await client.hears_nothing(listening=name in listening)


async def _hear(clients: dict[str, Client], expected: Events) -> None:
    """Hear all that is expected, each client in its order. A transaction has one time of commit."""
    times: set[str] = set()
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in expected:
        client = clients[event.client]
        # Where a client has several channels, an event names its own if it is not for the first.
        payload = await client.hears_event(event.topic or next(iter(client.joined)), event)
        if isinstance(event, Change):
            times.add(payload["data"]["commit_timestamp"])
            numbers[event.client].append(payload["data"]["seq"])
    assert len(times) <= 1
    assert all(heard == sorted(set(heard)) for heard in numbers.values())
