"""Key sets by what was set: JSON, a file, and an address that is up, down, slow or hostile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from rowcast.auth.jwks import Jwks
from rowcast.auth.keys import KeyFault
from support.keys import Published, key_set, make_signer, publishing, signer
from support.serving import PATIENCE

pytestmark = pytest.mark.anyio

ONE = key_set(signer("ES256"))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
async def published() -> AsyncIterator[Published]:
    async with publishing() as page:
        page.publish(ONE)
        yield page


class Pauses:
    """The pauses that are asked for, each of which ends when the test says so."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        end = asyncio.Event()
        self.asked.put_nowait((seconds, end))
        await end.wait()

    async def next(self) -> tuple[float, asyncio.Event]:
        return await asyncio.wait_for(self.asked.get(), PATIENCE)


@contextlib.asynccontextmanager
async def following(where: str, **options: Any) -> AsyncIterator[tuple[Jwks, Pauses]]:
    """The key set, once its first fetch has ended; it rests until the test ends a pause."""
    pauses = Pauses()
    jwks = Jwks(where, pause=pauses, **options)
    work = asyncio.create_task(jwks.run())
    try:
        await asyncio.wait_for(jwks.tried.wait(), PATIENCE)
        yield jwks, pauses
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_keys_are_read_from_json_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(ONE)
    for where in (ONE, f"\n {ONE}\n", str(tmp_path / "jwks.json")):
        async with following(where) as (jwks, _):
            assert jwks.find("k1", "ES256") is not None
            assert jwks.find("k2", "ES256") is None
            assert jwks.faults() == {}


@pytest.mark.parametrize(
    "where",
    ["", "/", "no/such/file", "a-secret", "a" * 5000, "a\0b", "ftp://x", "http://", "https:///p", "http://[",
     "[]", "{}", '{"keys":[{"kty":"oct","kid":"k","k":"c2VjcmV0"}]}'],
)  # fmt: skip
async def test_what_holds_no_keys_is_refused_and_not_shown(where: str) -> None:
    with pytest.raises(KeyFault) as fault:
        Jwks(where)
    assert len(where) < 3 or where not in str(fault.value)
    assert "c2VjcmV0" not in str(fault.value)


async def test_a_file_that_is_huge_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(ONE + " " * 600_000)
    with pytest.raises(KeyFault, match="bytes"):
        Jwks(str(tmp_path / "jwks.json"))


async def test_only_a_set_that_can_have_no_keys_is_empty(published: Published) -> None:
    assert Jwks('{"keys":[]}').empty
    assert not Jwks(ONE).empty
    assert not Jwks(published.address).empty


async def test_what_is_published_is_fetched_at_the_start(published: Published) -> None:
    async with following(published.address) as (jwks, _):
        assert jwks.find("k1", "ES256") is not None
        assert jwks.faults() == {}
    request = (await published.asked()).lower()
    assert request.startswith("get /jwks.json http/1.1")
    assert "accept-encoding: identity" in request


async def test_a_key_that_is_missed_is_fetched_once_the_pause_is_over(published: Published) -> None:
    async with following(published.address) as (jwks, pauses):
        await published.asked()
        published.publish(key_set(signer("ES256", "k2")))
        for _ in range(3):
            assert jwks.find("k2", "ES256") is None
        seconds, end = await pauses.next()
        assert (seconds, published.requests.empty()) == (30.0, True)
        end.set()
        await published.asked()
        await pauses.next()
        assert jwks.find("k2", "ES256") is not None
        # What is no longer published is no longer trusted.
        assert jwks.find("k1", "ES256") is None
        assert published.requests.empty()


async def test_a_secret_that_is_missed_is_not_looked_for(published: Published) -> None:
    async with following(published.address, interval=1e6) as (jwks, pauses):
        await published.asked()
        assert jwks.find("k2", "HS256") is None
        (await pauses.next())[1].set()
        # Had it been, this would come with the next fetch and not with the one after it.
        assert jwks.find("k2", "ES256") is None
        await published.asked()
        await pauses.next()
        assert published.requests.empty()


async def test_keys_are_fetched_again_without_being_missed(published: Published) -> None:
    async with following(published.address, interval=0.0, floor=0.0) as (_, pauses):
        for _ in range(3):
            await published.asked()
            (await pauses.next())[1].set()


async def test_an_address_that_is_down_at_the_start_is_tried_again_and_said(published: Published) -> None:
    published.publish("", "503 Service Unavailable")
    async with following(published.address) as (jwks, pauses):
        assert jwks.faults() == {"jwks": "the key set was answered with status 503"}
        assert jwks.find("k1", "ES256") is None
        waits = []
        for _ in range(7):
            seconds, end = await pauses.next()
            waits.append(seconds)
            end.set()
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        await pauses.next()
        published.publish(ONE)
    async with following(published.address) as (jwks, _):
        assert jwks.faults() == {}


@pytest.mark.parametrize(
    ("body", "answer", "fault"),
    [
        ("", ("500 Oops",), "was answered with status 500"),
        ("", ("302 Found", "location: /other"), "was answered with status 302"),
        ("<html>", ("200 OK",), "is no key set"),
        (
            '{"keys":[{"kty":"PQC","kid":"k1"}]}',
            ("200 OK",),
            "has no key that can be used: key 1 is of a type",
        ),
        ("\x1f\x8b", ("200 OK", "content-encoding: gzip"), "is no key set"),
        (ONE + " " * 600_000, ("200 OK",), "has more than 524288 bytes"),
        (ONE, ("nonsense",), "could not be fetched"),
    ],
)
async def test_a_failed_fetch_leaves_what_was_known(
    published: Published, body: str, answer: tuple[str, ...], fault: str
) -> None:
    async with following(published.address) as (jwks, pauses):
        published.publish(body, *answer)
        assert jwks.find("k2", "ES256") is None
        with structlog.testing.capture_logs() as lines:
            (await pauses.next())[1].set()
            assert (await pauses.next())[0] == 1.0
        assert [line["event"] for line in lines] == ["jwks_not_fetched"]
        assert lines[0]["fault"].startswith(f"the key set {fault}")
        assert jwks.find("k1", "ES256") is not None
        assert jwks.faults() == {}


async def test_an_answer_that_does_not_come_is_not_waited_for(published: Published) -> None:
    published.answer = b""
    async with following(published.address, time_limit=0.05) as (jwks, _):
        assert jwks.faults() == {"jwks": "the key set did not come within 0.05 seconds"}


async def test_nobody_there_is_a_fault_too() -> None:
    async with following("http://127.0.0.1:9/jwks.json") as (jwks, _):
        assert jwks.faults() == {"jwks": "the key set could not be fetched (ConnectError)"}


async def test_what_is_secret_in_an_address_is_sent_and_not_logged(published: Published) -> None:
    address = published.address.replace("//", "//me:a-password@") + "?key=another-one"
    published.publish(key_set(signer("ES256"), make_signer("HS256")).replace('"k": "', '"k": "!'))
    with structlog.testing.capture_logs() as lines:
        async with following(address, interval=0.0) as (_, pauses):
            request = await published.asked()
            published.publish("", "503 Service Unavailable")
            for _ in range(2):
                (await pauses.next())[1].set()
    assert "authorization: basic" in request.lower()
    assert "?key=another-one" in request
    assert lines
    assert "a-password" not in str(lines)
    assert "another-one" not in str(lines)


async def test_keys_that_are_left_out_are_told_once(published: Published) -> None:
    published.publish(ONE.replace("[", '[{"kty":"PQC","kid":"k9"},'))
    with structlog.testing.capture_logs() as lines:
        async with following(published.address, interval=0.0) as (jwks, pauses):
            (await pauses.next())[1].set()
            await pauses.next()
            assert jwks.find("k1", "ES256") is not None
    assert [line["event"] for line in lines] == ["jwks_fetched", "jwks_key_left_out"]
