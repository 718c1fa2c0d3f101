"""Handshakes and odd frames at the endpoint, byte for byte as the original answers them.

Each test names its case of the original's own tests, where there is one.
"""

import json
import time

import pytest

from rowcast.protocol.messages import Version
from rowcast.session.admission import Limits
from support.frames import both, opened, refusal, slow_down
from support.serving import running
from support.tokens import make_token

pytestmark = pytest.mark.anyio

FOREIGN = "another-secret-of-at-least-32-bytes!"
MALFORMED = "The token provided is not a valid JWT"
REQUIRED = "Fields `role` and `exp` are required in JWT"


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("", "API key is missing"),
        ("apikey=", "API key is missing"),
        ("apikey=garbage", MALFORMED),
        (f"apikey={make_token(exp=1)}", "Token has expired"),
        (f"apikey={make_token(exp=None)}", REQUIRED),
        (f"apikey={make_token(role='')}", REQUIRED),
        (f"apikey={make_token(secret=FOREIGN)}", "Failed to validate JWT signature"),
    ],
)
@pytest.mark.parametrize("vsn", ["", "&vsn=2.0.0"])
async def test_a_refused_key_is_answered_with_the_reason_in_json(key: str, vsn: str, error: str) -> None:
    """Cases 1 and 3."""
    async with running() as server:
        expected = 401, "application/json; charset=utf-8", json.dumps({"error": error}, separators=(",", ":"))
        assert await refusal(server, key + vsn) == expected


async def test_a_times_decimals_are_accepted_and_its_text_is_not() -> None:
    """Case 5."""
    now = time.time()
    async with running() as server:
        for good in (make_token(exp=now + 60.5, iat=now - 0.5), make_token(exp=now + 60, iat=now)):
            async with opened(server, Version.V2, good) as client:
                await client.hears_nothing()
        for wrong in (make_token(exp=str(now + 60)), make_token(iat=str(now))):
            status, _, body = await refusal(server, f"apikey={wrong}")
            assert (status, json.loads(body)) == (401, {"error": "Token expiration time is invalid"})


async def test_the_key_of_the_header_goes_before_that_of_the_address() -> None:
    """Case 6."""
    async with running() as server:
        async with opened(server, Version.V2, "garbage", x_api_key=make_token()) as client:
            await client.hears_nothing()
        status, _, _ = await refusal(server, f"apikey={make_token()}", x_api_key="garbage")
        assert status == 401


async def test_a_version_that_is_not_spoken_is_refused_without_a_word() -> None:
    """Case 7."""
    async with running() as server:
        async with opened(server, Version.V1, vsn="") as client:
            await client.hears_nothing()
        for vsn in ("3.0.0", "9.0.0", "garbage", "2.0", "2.1.0", "2.0.0-rc.1", ""):
            status, _, body = await refusal(server, f"apikey={make_token()}&vsn={vsn}")
            assert (status, body) == (403, "")


async def test_a_handshake_is_refused_while_the_server_is_joined_too_often() -> None:
    """Case 26, at the handshake."""
    async with running() as server:
        window = slow_down(server, 1)
        while window.take(time.time()):
            pass
        status, kind, body = await refusal(server, f"apikey={make_token()}")
        assert (status, kind) == (429, "application/json; charset=utf-8")
        assert body == '{"error":"Too many joins per second"}'
        # A wrong key learns nothing of it.
        assert (await refusal(server, "apikey=garbage"))[0] == 401


@both
async def test_malformed_frames_are_ignored_and_the_connection_kept(version: Version) -> None:
    """Case 8."""
    odd: list[str | bytes] = ["this is not json", "", '{"a":1}', "[1]", "{}", "[]", "null", "[" * 100_000]
    odd += ['[null,"1","phoenix","heartbeat"]' if version is Version.V2 else '{"topic":"a","event":"b"}']
    odd += [b"\x00\x01\x02\xff", b"", b"\x03\x09"]
    async with running() as server, opened(server, version) as client:
        for frame in odd:
            await client.connection.send(frame)
        await client.hears_nothing()


@both
async def test_a_heartbeat_is_answered_also_without_a_reference(version: Version) -> None:
    """Case 9."""
    async with running() as server, opened(server, version) as client:
        for ref, join_ref in (("26", None), (None, None), ("27", "11")):
            await client.say("phoenix", "heartbeat", {}, ref, join_ref)
            await client.hears_reply("phoenix", {}, ref, None)


async def test_a_silent_client_is_closed_with_1000() -> None:
    """Case 10."""
    async with running(limits=Limits(idle_timeout=0.05)) as server, opened(server, Version.V2) as client:
        assert await client.close_code() == 1000


async def test_a_client_without_a_channel_is_closed_so_that_it_connects_again() -> None:
    limits = Limits(no_channel_timeout=0.05)
    async with running(limits=limits) as server, opened(server, Version.V2) as client:
        assert await client.close_code() == 4004
