"""Subscriptions that begin with a snapshot: its rows are sent first, then what was written since.

A channel stands at the snapshot's place meanwhile, and then resumes from there as from any other.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from rowcast.capture.cursors import Wanted
from rowcast.capture.groups import Member
from rowcast.capture.replays import Replays
from rowcast.capture.snapshots import SnapshotError, Snapshots, Taken
from rowcast.db.connection import AWAY
from rowcast.model.binding import Binding
from rowcast.protocol.frames import text_frame
from rowcast.protocol.snapshots import encode_snapshot

#: A batch is sent once no more bytes than this wait for the client.
_LOW: Final = 256 * 1024
_RETRY_SECONDS: Final = 0.25

log = structlog.get_logger("rowcast.snapshots")


@dataclass(eq=False, slots=True)
class _Beginning:
    """A snapshot on its way. ``taken`` gets why there is none for some of the bindings; its rows are sent
    once ``told`` is set."""

    member: Member
    taken: asyncio.Future[dict[Binding, str]]
    told: asyncio.Event
    work: asyncio.Task[None] | None = None


class Beginnings:
    """Takes snapshots for channels. ``catch_up`` waits until the present stands where it was when that was
    called; ``lose`` ends a channel whose snapshot broke off. ``limit`` bounds a message, in bytes."""

    def __init__(
        self,
        snapshots: Snapshots,
        replays: Replays,
        catch_up: Callable[[], Awaitable[None]],
        lose: Callable[[Member], None],
        limit: int,
    ) -> None:
        self._snapshots, self._replays, self._limit = snapshots, replays, limit
        self._catch_up, self._lose = catch_up, lose
        self._going: dict[Member, _Beginning] = {}

    async def begin(self, member: Member) -> dict[Binding, str]:
        """Take a snapshot for those of a member's bindings that want one.

        Returns why there is none for some of them, which the member is without then. Unless it has no other
        left, it stands at the snapshot's place from then on; its rows are sent after ``go``.
        """
        if (hearing := member.subscriber.hearing) is not None:
            # What comes meanwhile is before the snapshot, or comes again after it.
            hearing.began = True
        while True:
            beginning = _Beginning(member, asyncio.get_running_loop().create_future(), asyncio.Event())
            work = beginning.work = asyncio.create_task(self._run(beginning))
            try:
                faults = await beginning.taken
            except AWAY:
                # The database is away: a subscription waits for it, as changes do.
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except BaseException:
                work.cancel()
                raise
            if not work.done():
                self._going[member] = beginning
                work.add_done_callback(lambda _: self._going.pop(member, None))
            return faults

    def go(self, member: Member) -> None:
        """Send the rows, or none of them where the member is gone."""
        if (beginning := self._going.get(member)) is not None:
            beginning.told.set()

    def end(self) -> None:
        """Give all snapshots up."""
        for beginning in self._going.values():
            if beginning.work is not None:
                beginning.work.cancel()

    async def _run(self, beginning: _Beginning) -> None:
        member, taken = beginning.member, beginning.taken
        wanting = [binding for binding in member.bindings if binding.snapshot is not None]
        wanted = [Wanted(binding, member.accepted[binding].tables) for binding in wanting]
        try:
            async with self._snapshots.take(member.subject, wanted) as snapshot:
                faults = {
                    wanting[place]: _fault(wanting[place], why) for place, why in snapshot.faults.items()
                }
                member.bindings = [binding for binding in member.bindings if binding not in faults]
                member.place = snapshot.position
                if member.bindings and not member.subscriber.gone:
                    self._replays.hold(member)
                taken.set_result(faults)
                if self._replays.get(member.subscriber) is not member:
                    return
                await beginning.told.wait()
                await self._send(member, snapshot)
            await self._catch_up()
            self._replays.release(member)
        except SnapshotError as error:
            if taken.done():
                log.warning("snapshot_broken_off", reason=str(error))
                self._lose(member)
                return
            member.bindings = [binding for binding in member.bindings if binding not in wanting]
            taken.set_result({binding: _fault(binding, str(error)) for binding in wanting})
        except Exception as error:
            if not taken.done():
                taken.set_exception(error)
            else:
                log.error("snapshot_broken_off", reason=type(error).__name__)
                self._lose(member)

    async def _send(self, member: Member, snapshot: Taken) -> None:
        subscriber = member.subscriber
        position = snapshot.position.encode()
        async for batch in snapshot.batches():
            for message in encode_snapshot(
                batch.outline,
                batch.images,
                subscriber.topic,
                [batch.binding.id],
                subscriber.version,
                last=batch.last,
                position=position,
                limit=self._limit,
            ):
                await subscriber.lane.drained(min(_LOW, subscriber.lane.limit // 4))
                if self._replays.get(subscriber) is not member:
                    return
                subscriber.lane.push(text_frame(message))


def _fault(binding: Binding, why: str) -> str:
    return f"Unable to take a snapshot of {binding.schema}.{binding.table}: {why}"
