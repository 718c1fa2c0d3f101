"""Floods of what nobody should send: whoever else is there goes on, and the log has no error."""

import contextlib
import json
import logging
from typing import Any

import pytest
import websockets

from rowcast.protocol.messages import Version
from support.broadcasts import pushed
from support.frames import both, opened
from support.rest import BATCH, SINGLE, api, delivered, limit, listening, message
from support.serving import Running

pytestmark = pytest.mark.anyio

TIMES = 100
TOPIC = "realtime:web"
LARGE = "x" * 1001
JSON = {"content-type": "application/json"}


def says(event: str, payload: Any, topic: str = TOPIC) -> str:
    """A message of 2.0.0."""
    return json.dumps(["1", "2", topic, event, payload])


def presence(event: Any, payload: Any = None) -> str:
    return says("presence", {"type": "presence", "event": event, "payload": payload})


def joins(key: str = "k", topic: str = TOPIC) -> str:
    return says("phx_join", {"config": {"presence": {"enabled": True, "key": key}}}, topic)


FLOODS: dict[str, str | bytes] = {
    "a payload over the limit": says("broadcast", {"event": "e", "payload": LARGE}),
    "bytes over the limit": pushed("1", "2", TOPIC, "e", LARGE.encode(), raw=True),
    "JSON in a binary frame that is none": pushed("1", "2", TOPIC, "e", b"{", raw=False),
    "a meta over the limit": presence("track", {"n": LARGE}),
    "a payload that is no object": presence("track", [1]),
    "an event that presence has not": presence("dance"),
    "an event of presence that is no text": presence({"track": 1}),
    "a key that every object has": joins("__proto__"),
    "a key over the limit": joins("k" * 2000),
    "a topic over the limit": joins(topic=f"realtime:{'x' * 10_000}"),
    "a topic that has only its prefix": joins(topic="realtime:"),
    "half a character": says("broadcast", {"event": "e", "payload": "\ud800"}),
    "half a character in a topic": joins(topic="realtime:\udfff"),
    "half a character in a key": joins("\ud800"),
    "a number of thousands of digits": f'["1","2","{TOPIC}","broadcast",{"9" * 5000}]',
    "a message nested deeply": "[" * 5000,
    "a message of another shape": '{"topic":1}',
    "a binary frame of another shape": b"\3\xff\xff\xff\xff\xff",
    "a message to nobody": says("broadcast", {}, "realtime:another"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_of_one_socket_is_nothing_to_others(
    site: Running, flood: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(site, broadcast={"self": True}) as listeners, opened(site, Version.V2) as client:
        await client.join(TOPIC, {"config": {}}, join_ref="1")
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(TIMES):
                await client.connection.send(flood)
            await client.say("phoenix", "heartbeat", {}, "999", None)
            while '"999"' not in await client.hear():
                pass
        for listener in listeners:
            await listener.hears_nothing()
        said = delivered("h", {"n": 1})
        await listeners[0].say(TOPIC, "broadcast", said, None)
        for listener in listeners:
            await listener.hears_broadcast(TOPIC, said)
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe", b'{"messages":' + b"[" * 100_000, b'{"messages":[{"topic":"\\ud800"}]}',
     b'{"messages":[{"topic":"web","event":"\\udfff","payload":{"\\ud800":"\\udc00"}}]}',
     b'{"messages":[{"topic":"web","event":"e","payload":{"n":NaN}}]}',
     b'{"messages":[{"topic":"web","event":"e","payload":{"n":%s}}]}' % (b"9" * 5000)],
    ids=["no UTF-8", "depth", "half a character in a topic", "half a character", "no number", "digits"],
)  # fmt: skip
async def test_a_flood_of_requests_that_no_parser_should_take_is_refused(site: Running, body: bytes) -> None:
    async with api(site) as client, listening(site) as listeners:
        limit(site, 1000)
        for path in (BATCH, SINGLE):
            found = {(await client.post(path, content=body, headers=JSON)).status_code for _ in range(20)}
            assert found == {400}
        assert (await client.post(BATCH, json={"messages": [message()]})).status_code == 202
        for listener in listeners:
            await listener.hears_broadcast(TOPIC, delivered("h", {}))


@both
@pytest.mark.parametrize("name", ["\x00\x01\x1f", "\x7f\u0085\u2028", 'a"b\\c\n', "\u202e\ufeff"])
async def test_a_topic_may_have_any_characters(site: Running, version: Version, name: str) -> None:
    async with opened(site, version) as client:
        await client.join(f"realtime:{name}", {"config": {"broadcast": {"self": True}}})
        said = delivered("h", {name: name})
        await client.say(f"realtime:{name}", "broadcast", said, None)
        await client.hears_broadcast(f"realtime:{name}", said)
