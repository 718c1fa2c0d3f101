"""Requests to the REST API that are refused, over the real server: the original's cases, each named."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rowcast.model.allowed import Allowed, ChannelUnavailable
from rowcast.model.claims import Claims
from rowcast.model.rates import STEP_SECONDS
from support.rest import (
    BATCH,
    OCTETS,
    SINGLE,
    UNSUPPORTED,
    api,
    delivered,
    door,
    limit,
    listening,
    message,
)
from support.serving import PATIENCE, Running
from support.tokens import make_token

pytestmark = pytest.mark.anyio


BLANK, INVALID = ["can't be blank"], ["is invalid"]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"messages": [{"event": "e", "payload": {}}]}, [{"topic": BLANK}]),
        ({"messages": [{"topic": "web", "payload": {}}]}, [{"event": BLANK}]),
        ({"messages": [{"topic": "web", "event": "e", "payload": "text"}]}, [{"payload": INVALID}]),
        ({"messages": [{"topic": " ", "event": 3, "payload": [1]}]},
         [{"event": INVALID, "payload": INVALID, "topic": BLANK}]),
        ({"messages": [message(), {"topic": "web"}, message(private="maybe", id="x")]},
         [{}, {"event": BLANK, "payload": BLANK}, {"id": INVALID, "private": INVALID}]),
        ({"messages": [message(), message(payload={"x": "y" * 1000})]},
         [{}, {"payload": ["Payload size exceeds tenant limit"]}]),
        ({"messages": []}, BLANK), ({}, BLANK), ([], BLANK), (3, BLANK), ({"messages": None}, BLANK),
        ({"messages": "text"}, INVALID), ({"messages": [1]}, INVALID),
    ],
)  # fmt: skip
async def test_a_batch_with_a_fault_is_refused_whole_and_told_of_each(
    site: Running, body: Any, errors: Any
) -> None:
    """Case 53."""
    async with api(site) as client, listening(site) as listeners:
        answer = await client.post(BATCH, json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.text == json.dumps({"errors": {"messages": errors}}, separators=(",", ":"))
        for listener in listeners:
            await listener.hears_nothing()


async def test_who_may_not_write_is_told_of_one_broadcast_and_not_of_a_batch(site: Running) -> None:
    """Cases 53 and 54. Each topic is asked about once."""
    async with api(site) as client:
        gate = door(site, Allowed(presence=True))
        async with listening(site, private=True) as private, listening(site) as public:
            answer = await client.post(f"{SINGLE}?private=true", json={})
            assert (answer.status_code, answer.json()) == (403, {"message": "Unauthorized"})
            batch = [message(private=True), message(private=True), message("open")]
            answer = await client.post(BATCH, json={"messages": batch})
            assert (answer.status_code, answer.content) == (202, b"")
            assert gate.asked == 2
            for listener in private:
                await listener.hears_nothing()
            for listener in public:
                await listener.hears_broadcast("realtime:web", delivered("open", {}))


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (ChannelUnavailable("QueryCanceled", ""), 422, "Query canceled"),
        (ChannelUnavailable("MissingPartition", ""), 422, "Missing messages partition"),
        (ChannelUnavailable("DatabaseLackOfConnections", ""), 422,
         "Tenant database has too many connections"),
        (ChannelUnavailable("UnableToConnectToProject", ""), 422, "Tenant database unavailable"),
        (ChannelUnavailable("IncreaseConnectionPool", ""), 429, "Connection pool exhausted"),
        (RuntimeError("secret"), 500, "Unable to authorize broadcast"),
    ],
)  # fmt: skip
async def test_policies_that_cannot_be_asked_are_told_and_nothing_is_sent(
    site: Running, failure: Exception, status: int, text: str
) -> None:
    async with api(site) as client, listening(site) as listeners:
        gate = door(site, Allowed(broadcast=True))
        batch = {"messages": [message(), message(private=True)]}
        for path, body in ((f"{SINGLE}?private=true", {}), (BATCH, batch)):
            gate.failures.append(failure)
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()) == (status, {"message": text})
        for listener in listeners:
            await listener.hears_nothing()


@pytest.mark.parametrize("path", [BATCH, SINGLE])
@pytest.mark.parametrize(
    "headers",
    [
        {"x_nothing": ""}, {"apikey": "garbage"}, {"x_api_key": make_token()},
        {"apikey": make_token(lifetime=-10)}, {"authorization": "Bearer garbage", "apikey": make_token()},
        {"authorization": f"Basic {make_token()}"}, {"authorization": make_token()},
        {"authorization": f"Bearer {make_token(secret='another-secret-that-is-long-enough-for-it')}"},
    ],
)  # fmt: skip
async def test_a_request_without_a_good_token_is_refused(
    site: Running, path: str, headers: dict[str, str]
) -> None:
    """Cases 53 and 54. Authorization goes before the key."""
    async with api(site, **headers) as client:
        answer = await client.post(path, json={"messages": [message()]})
        assert (answer.status_code, answer.text) == (401, '{"message":"Unauthorized"}')
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_body_of_another_kind_is_refused(site: Running) -> None:
    """Case 54."""
    async with api(site) as client:
        for path, known in (
            (SINGLE, UNSUPPORTED),
            (BATCH, {"error": "Unsupported Media Type. Use application/json"}),
        ):
            answer = await client.post(path, content="x", headers={"content-type": "text/plain"})
            assert (answer.status_code, answer.json()) == (415, known)
            answer = await client.post(path, content="{", headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()) == (
                400,
                {"message": "Bad Request: the body is no JSON"},
            )


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream"])
async def test_a_payload_over_the_limit_is_refused(site: Running, kind: str) -> None:
    """Case 54."""
    async with api(site) as client:
        body = json.dumps("x" * 1000)
        answer = await client.post(SINGLE, content=body, headers={"content-type": kind})
        assert answer.status_code == 422
        assert answer.text == '{"errors":{"payload":["Payload size exceeds tenant limit"]}}'


@pytest.mark.parametrize("told", [True, False])
async def test_a_body_over_its_limit_is_not_read(site: Running, told: bool) -> None:
    async with api(site) as client:
        site.app.state.services = dataclasses.replace(site.app.state.services, body_limit=1000)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(11):
                yield bytes(100)

        body = bytes(1100) if told else pieces()
        answer = await client.post(BATCH, content=body)
        assert answer.status_code == 413
        assert answer.json() == {"message": "Request Entity Too Large: a body may have 1000 bytes"}
        assert answer.headers["connection"] == "close"


async def test_bytes_with_a_name_too_long_for_their_frame_are_refused_and_json_is_sent_as_text(
    site: Running,
) -> None:
    path = f"/api/broadcast/web/events/{'e' * 256}"
    async with api(site) as client, listening(site) as listeners:
        answer = await client.post(path, content=b"x", headers=OCTETS)
        assert answer.status_code == 422
        assert "at most 255 bytes" in answer.json()["errors"]["event"][0]
        assert (await client.post(path, json={"n": 1})).status_code == 202
        for listener in listeners:
            await listener.hears_broadcast("realtime:web", delivered("e" * 256, {"n": 1}))


async def test_too_many_messages_are_refused_until_there_were_fewer(site: Running) -> None:
    """Cases 53, 54 and 98."""
    limit(site, 2)
    clock = [1_000_000.0]
    services = dataclasses.replace(
        site.app.state.services, clock=lambda: clock[0], verify=lambda token, now: Claims(token, now + 60, {})
    )
    site.app.state.services = services
    async with api(site) as client:
        answer = await client.post(BATCH, json={"messages": [message()] * 3})
        assert answer.status_code == 429
        text = "Too many messages to broadcast, please reduce the batch size"
        assert answer.json() == {"message": text}
        for number in range(int(2 * STEP_SECONDS)):
            answer = await client.post(SINGLE, json={})
            assert answer.status_code == 202
            rolling = f"{(number + 1) / STEP_SECONDS:.2f}"
            assert answer.headers["x-rate-rolling"] == rolling
        assert answer.headers["x-rate-limit"] == "2"
        assert answer.headers["x-rate-limit-remaining"] == "0.00"
        for path in (SINGLE, BATCH):
            answer = await client.post(path, json={"messages": [message()]})
            assert (answer.status_code, answer.json()) == (429, {"message": "Too many requests"})
            assert answer.headers["x-rate-rolling"] == "2.00"
        # Who sends too much takes nothing from anybody else.
        another = {"apikey": make_token("service_role")}
        assert (await client.post(SINGLE, json={}, headers=another)).status_code == 202
        clock[0] += STEP_SECONDS
        assert (await client.post(BATCH, json={"messages": [message()]})).status_code == 202


async def test_a_refused_body_counts_as_a_message(site: Running) -> None:
    limit(site, 1)
    async with api(site) as client:
        found = [(await client.post(BATCH, json={"messages": 1})).status_code for _ in range(6)]
        assert found == [422] * 5 + [429]


async def test_ten_thousand_messages_at_once_are_one_refusal(site: Running) -> None:
    async with api(site) as client:
        answer = await client.post(BATCH, json={"messages": [{}] * 10_000})
        assert answer.status_code == 429
        limit(site, 10_000)
        answer = await client.post(BATCH, json={"messages": [message()] * 10_000})
        assert answer.status_code == 202


@pytest.mark.parametrize("path", [f"{BATCH}/web", f"{BATCH}/web/event/e", f"{BATCH}/a/events/b/c"])
async def test_other_paths_are_not_there(site: Running, path: str) -> None:
    async with api(site) as client:
        assert (await client.post(path, json={})).status_code == 404
        assert (await client.get(BATCH)).status_code == 405


async def test_a_body_that_does_not_come_is_not_waited_for(
    site: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowcast.web.requests._BODY_SECONDS", 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = f"POST {BATCH} HTTP/1.1\r\nHost: x\r\napikey: {make_token()}\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    said = await asyncio.wait_for(reader.read(), PATIENCE)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"Request Timeout" in said
    writer.close()


async def test_a_client_that_goes_away_within_its_body_does_no_harm(site: Running) -> None:
    async with api(site) as client:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        head = f"POST {BATCH} HTTP/1.1\r\nHost: x\r\napikey: {make_token()}\r\nContent-Length: 100\r\n\r\n{{"
        writer.write(head.encode())
        await writer.drain()
        writer.transport.abort()
        assert (await client.post(BATCH, json={"messages": [message()]})).status_code == 202
