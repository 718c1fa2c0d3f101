"""What the stream consists of ends when it is told to, whatever gets in the way of that."""

import asyncio

import pytest

from rowcast.capture import parts
from rowcast.capture.parts import Parts, together

pytestmark = pytest.mark.anyio


def nobody(reason: str) -> None:
    raise AssertionError(reason)


async def told_to_end(work: asyncio.Task[None]) -> None:
    async with asyncio.timeout(30):
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work


async def test_a_part_ends_though_its_clearing_up_fails() -> None:
    begun = asyncio.Event()

    async def read() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("rolled back over a dead connection")

    work = asyncio.create_task(Parts("postgresql://a@b/c", ["reader"], nobody).forever("reader", read))
    await begun.wait()
    await told_to_end(work)


async def test_who_misses_that_it_is_to_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_CANCEL_AGAIN", 0.01)
    begun, missed = asyncio.Event(), 0

    async def connect() -> None:
        nonlocal missed
        begun.set()
        while missed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                missed += 1
        await asyncio.Event().wait()

    async def go_on() -> None:
        await asyncio.Event().wait()

    work = asyncio.create_task(together(connect(), go_on()))
    await begun.wait()
    await told_to_end(work)
    assert missed == 3


async def test_where_one_fails_the_others_end() -> None:
    ended = asyncio.Event()

    begun = asyncio.Event()

    async def go_on() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        await begun.wait()
        raise ValueError("out of tune")

    with pytest.raises(ValueError, match="out of tune"):
        await together(go_on(), fail())
    assert ended.is_set()
