"""Broadcasts by requests, over real sockets, to a server whose every answer the test says."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rowcast_client import (
    AuthError,
    Client,
    ConnectError,
    ConnectionLost,
    RowcastError,
    SendError,
    TimedOut,
    TokenError,
    UsageError,
)
from rowcast_client.address import rest_url, websocket_url

pytestmark = pytest.mark.anyio


class Desk:
    """Answers every request with ``answer``: a status and a body, or None to hang up, or nothing at all."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] | None = (202, b"")
        self.silent = False
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        #: How many requests each connection brought.
        self.counts: list[int] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        try:
            while line := await reader.readline():
                headers = {}
                while (header := await reader.readline()) != b"\r\n":
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                if "upgrade" in headers:
                    break
                count += 1
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append((line.decode().strip(), headers, body))
                if self.silent:
                    await reader.read()
                if self.answer is None:
                    break
                status, said = self.answer
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(said)}\r\n\r\n".encode() + said)
        finally:
            self.counts += [count] if count else []
            writer.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with await asyncio.start_server(desk.serve, "127.0.0.1", 0) as server:
        desk.port = server.sockets[0].getsockname()[1]
        yield desk


def client(desk: Desk, **options: Any) -> Client:
    return Client(f"http://user:pass@127.0.0.1:{desk.port}/base?q=1", "the-key", **options)


async def test_a_request_says_what_where_and_who(desk: Desk) -> None:
    async def token() -> str:
        return "the-token"

    sender = client(desk, token=token, headers={"x-mine": "1", "Authorization": "mine"})
    await sender.channel("a/b", private=True).send("e?", {"text": "é"})
    await sender.channel("b").send("e", b"\xff")
    await client(desk).channel("b").send("e")
    (line, headers, body), second, third = desk.requests
    assert line == "POST /base/realtime/v1/api/broadcast/a%2Fb/events/e%3F?private=true HTTP/1.1"
    assert (headers["apikey"], headers["authorization"]) == ("the-key", "Bearer the-token")
    assert (headers["content-type"], headers["x-mine"]) == ("application/json", "1")
    assert json.loads(body) == {"text": "é"}
    assert second[0].endswith("/b/events/e?private=false HTTP/1.1")
    assert (second[1]["content-type"], second[2]) == ("application/octet-stream", b"\xff")
    # Without a token the server falls back to the key, as at a join.
    assert ("authorization" in third[1], third[2]) == (False, b"{}")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/socket", "http://h/api/broadcast"),
        ("wss://u:p@h:1/realtime/v1/websocket?a=b", "https://h:1/realtime/v1/api/broadcast"),
        ("https://h", "https://h/realtime/v1/api/broadcast"),
    ],
)
def test_requests_go_beside_the_websocket(url: str, expected: str) -> None:
    assert rest_url(websocket_url(url)) == expected


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "words"),
    [
        (401, b'{"message": "Unauthorized"}', AuthError, "Unauthorized", "401: Unauthorized"),
        (403, b'{"message": "Unauthorized"}', AuthError, "Forbidden", "403: Unauthorized"),
        (404, b"<html>", SendError, "NotFound", "404"),
        (413, b'{"message": "too large"}', SendError, "payload_size_exceeded", "too large"),
        (422, b'{"errors": {"payload": ["a", "b"]}}', SendError, "payload_size_exceeded", "payload: a, b"),
        (422, b'{"errors": {"event": ["blank"], "x": 1}}', SendError, "SendRefused", "event: blank"),
        (429, b'{"message": "You have"}', SendError, "TooManyMessages", "You have"),
        (500, b'{"message": 5}', SendError, "SendRefused", "500"),
        (200, b"", SendError, "SendRefused", "200"),
    ],
)
async def test_each_status_is_an_error_with_the_servers_words(
    desk: Desk, status: int, body: bytes, kind: type[RowcastError], code: str, words: str
) -> None:
    desk.answer = (status, body)
    with pytest.raises(kind, match=words) as raised:
        await client(desk).channel("a").send("e")
    assert raised.value.code == code
    assert raised.value.temporary == (status in (429, 500))
    assert getattr(raised.value, "status", status) == status


async def test_no_answer_is_told_apart_from_no_connection(desk: Desk) -> None:
    desk.answer = None
    with pytest.raises(ConnectionLost, match="not known whether it was sent"):
        await client(desk).channel("a").send("e")
    desk.silent = True
    with pytest.raises(TimedOut, match="not known whether it was sent"):
        await client(desk).channel("a").send("e", timeout=0.05)
    with pytest.raises(ConnectError, match="cannot be reached"):
        await Client("http://127.0.0.1:1", "k").channel("a").send("e")

    def broken() -> str:
        raise ValueError("secret")

    with pytest.raises(TokenError):
        await client(desk, token=broken).channel("a").send("e")


async def test_no_key_and_no_payload_reaches_an_error_or_a_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk.answer = (403, b"{}")
    said = []
    for key in ("hush-key", "hush\n-key", "hush-é"):
        with pytest.raises(RowcastError) as raised:
            await client(desk, token=key).channel("a").send("e", {"payload": "hush-payload"})
        said += [str(raised.value), repr(raised.value.__cause__), repr(raised.value.__context__)]
    assert "hush" not in caplog.text + "".join(said)
    assert "pass" not in caplog.text + "".join(said)


async def test_an_open_client_keeps_its_connection_for_the_next_request(desk: Desk) -> None:
    async with client(desk) as sender:
        for _ in range(3):
            await sender.channel("a").send("e")
    for _ in range(2):
        await sender.channel("a").send("e")
    assert sorted(desk.counts)[-1] == 3


async def test_what_cannot_be_sent_is_refused_before_anything_is(desk: Desk) -> None:
    channel = client(desk).channel("a")
    for event, payload in (("", {}), ("e", {1, 2}), ("e" * 256, b"x")):
        with pytest.raises(UsageError):
            await channel.send(event, payload)
    with pytest.raises(UsageError):
        client(desk).channel("\ud800")
    assert desk.requests == []
