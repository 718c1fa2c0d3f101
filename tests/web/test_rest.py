"""Broadcasts by REST that are sent, over the real server: the original's cases, each named, and more."""

import pytest
from websockets.asyncio.client import connect

from rowcast.model.allowed import Allowed
from rowcast.protocol.messages import Version
from support.frames import Client, both
from support.rest import BATCH, OCTETS, PREFIXES, SINGLE, api, delivered, door, listening, message
from support.serving import Running
from support.tokens import make_token

pytestmark = pytest.mark.anyio


@PREFIXES
@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_batch_reaches_sockets_of_both_versions_in_its_order(
    site: Running, prefix: str, slash: str
) -> None:
    """Cases 53 and 55."""
    async with api(site) as client, listening(site) as listeners:
        batch = [message("m1"), message("m2", payload={"b": 2}), message("other", "elsewhere")]
        answer = await client.post(f"{prefix}{BATCH}{slash}", json={"messages": batch})
        assert (answer.status_code, answer.content) == (202, b"")
        for listener in listeners:
            await listener.hears_broadcast("realtime:web", delivered("m1", {}))
            await listener.hears_broadcast("realtime:web", delivered("m2", {"b": 2}))
            await listener.hears_nothing()


async def test_an_id_is_delivered_beside_the_payload_and_none_is_made_up(site: Running) -> None:
    async with api(site) as client, listening(site) as listeners:
        id_ = "2F0C3B4E-0000-4000-8000-000000000001"
        await client.post(BATCH, json={"messages": [message(id=id_), message()]})
        for listener in listeners:
            await listener.hears_broadcast("realtime:web", delivered("h", {}, meta={"id": id_.lower()}))
            await listener.hears_broadcast("realtime:web", delivered("h", {}))


@PREFIXES
async def test_one_broadcast_is_binary_for_2_0_0_and_json_for_1_0_0(site: Running, prefix: str) -> None:
    """Cases 54 and 55."""
    async with api(site) as client, listening(site) as (old, new):
        answer = await client.post(f"{prefix}{SINGLE}?apikey=x&vsn=2.0.0", json={"z": 1})
        assert (answer.status_code, answer.content) == (202, b"")
        await new.hears_bytes(b'{"z":1}', topic="realtime:web", event="solo")
        await old.hears_broadcast("realtime:web", delivered("solo", {"z": 1}))
        for data in (b"\x01\x02\xff", b""):
            answer = await client.post(f"{prefix}{SINGLE}", content=data, headers=OCTETS)
            assert answer.status_code == 202
            await new.hears_bytes(data, topic="realtime:web", event="solo", raw=True)
        await old.hears_nothing()


@pytest.mark.parametrize(
    ("body", "kind", "payload"),
    [
        (b"{}", "application/json", b"{}"), (b"{}", "Application/JSON; charset=utf-8", b"{}"),
        (b"", "application/json", b"{}"), (b'{"a":1}', None, b'{"a":1}'), (b"", None, b"{}"),
        (b"[1]", "application/json", b'{"_json":[1]}'), (b'"x"', "application/json", b'{"_json":"x"}'),
    ],
)  # fmt: skip
async def test_the_body_of_one_broadcast_is_its_payload(
    site: Running, body: bytes, kind: str | None, payload: bytes
) -> None:
    """Case 54."""
    async with api(site) as client, listening(site) as (_, new):
        headers = {} if kind is None else {"content-type": kind}
        assert (await client.post(SINGLE, content=body, headers=headers)).status_code == 202
        await new.hears_bytes(payload, topic="realtime:web", event="solo")


@pytest.mark.parametrize(
    "name", ["a:b", "a/b", "ä €", "50%25", "/api/broadcast/x", "?a=b", ".", "a\nb\r\0", "x\n"]
)
async def test_a_topic_and_an_event_may_hold_anything(site: Running, name: str) -> None:
    """Case 54."""
    part = "".join(f"%{byte:02x}" for byte in name.encode())
    async with api(site) as client, listening(site, f"realtime:{name}") as (_, new):
        answer = await client.post(f"/realtime/v1/api/broadcast/{part}/events/{part}", json={})
        assert answer.status_code == 202
        await new.hears_bytes(b"{}", topic=f"realtime:{name}", event=name)


@pytest.mark.parametrize("query", ["", "?private=false", "?private=1", "?private=true"])
async def test_private_is_what_says_so_and_is_heard_by_private_channels_alone(
    site: Running, query: str
) -> None:
    """Case 54."""
    private = query == "?private=true"
    async with api(site) as client, listening(site) as (_, public):
        door(site, Allowed(broadcast=True))
        async with listening(site, private=True) as (_, secret):
            assert (await client.post(SINGLE + query, json={})).status_code == 202
            await (secret if private else public).hears_bytes(b"{}", topic="realtime:web", event="solo")
            await (public if private else secret).hears_nothing()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_bearer_goes_before_the_key(site: Running, scheme: str) -> None:
    async with (
        api(site, authorization=f"{scheme} {make_token()}", apikey="x") as client,
    ):
        assert (await client.post(BATCH, json={"messages": [message()]})).status_code == 202


@PREFIXES
@pytest.mark.parametrize("path", [BATCH, SINGLE])
async def test_a_browser_may_ask_from_anywhere_without_a_gateway(
    site: Running, prefix: str, path: str
) -> None:
    async with api(site, origin="https://app.example") as client:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "apikey"}
        answer = await client.options(prefix + path, headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = set(answer.headers["access-control-allow-headers"].split(", "))
        assert allowed >= {"authorization", "apikey", "content-type", "x-client-info", "baggage"}


@pytest.mark.parametrize(
    ("baggage", "kept"),
    [("a=b, request-id = 0123456789;p=1", "0123456789"), ("request-id=" + "x" * 200, "x" * 200),
     ("request-id=short", None), ("request-id=" + "x" * 201, None), ("", None), ("other=0123456789", None)],
)  # fmt: skip
async def test_a_request_is_called_as_its_sender_says(site: Running, baggage: str, kept: str | None) -> None:
    """Case 99."""
    async with api(site) as client:
        found = (await client.post(BATCH, json={}, headers={"baggage": baggage})).headers["x-request-id"]
        assert found == kept if kept is not None else len(found) == 32


@PREFIXES
async def test_the_api_describes_itself(site: Running, prefix: str) -> None:
    """Case 97."""
    async with api(site) as client:
        described = (await client.get(f"{prefix}/api/openapi")).json()
        assert described["openapi"].startswith("3.")
        assert list(described["paths"]) == ["/api/broadcast", "/api/broadcast/{topic}/events/{event}"]
        for path in described["paths"].values():
            assert {"202", "401", "422", "429"} <= set(path["post"]["responses"])


@both
async def test_fifty_requests_reach_a_socket_in_order(site: Running, version: Version) -> None:
    """Case 100, but for its time."""
    async with api(site) as client:
        address = f"ws://127.0.0.1:{site.port}/socket/websocket?apikey={make_token()}&vsn={version}"
        async with connect(address) as connection:
            listener = Client(connection, version)
            await listener.join("realtime:web", {"config": {}})
            for number in range(50):
                await client.post(BATCH, json={"messages": [message(payload={"n": number})]})
            for number in range(50):
                await listener.hears_broadcast("realtime:web", delivered("h", {"n": number}))
