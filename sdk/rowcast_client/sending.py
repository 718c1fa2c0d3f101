"""Sending: what one channel says, over the socket where it is joined, else by a request."""

import asyncio
import itertools
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._core.broadcasts import LONGEST, Said
from ._core.calls import UNKNOWN
from ._core.wants import Settle
from .errors import TimedOut, UsageError
from .options import Options
from .payloads import encoded, event_name
from .states import ChannelState

if TYPE_CHECKING:
    from .channel import Channel
    from .client import Client

_NOT_SENT = "it was not sent"


class Sending:
    """One channel's calls, and who awaits their answers."""

    def __init__(self, channel: "Channel", client: "Client", options: Options) -> None:
        self._channel, self._client, self._options = channel, client, options
        self._numbers = itertools.count(1)
        self._awaited: dict[int, asyncio.Future[None]] = {}

    async def broadcast(self, event: str, payload: object, timeout: float | None) -> None:
        """Send it. Raises what ``Channel.send`` says."""
        name, (data, raw) = event_name(event), encoded(payload)
        if raw and max(len(name.encode()), len(self._channel.topic.encode())) > LONGEST:
            raise UsageError(f"an event or a channel's name of more than {LONGEST} bytes takes no bytes")
        said = Said(name, data, raw, str(uuid.uuid4()) if self._options.store else None)
        state = _NOT_SENT
        try:
            async with asyncio.timeout(timeout):
                while self._joined and self._client._link.outbox.full:
                    await self._client._link.outbox.room()
                state = UNKNOWN
                if said.id is not None:
                    self._client._core.stored(self._channel.topic, said.id)
                if not self._joined:
                    await self._client._rest.broadcast(
                        self._channel.name, said, private=self._options.private
                    )
                elif self._options.ack or self._options.store:
                    await self._answered(lambda number: self._push(said, number))
                else:
                    self._push(said, None)
        except TimeoutError:
            raise TimedOut(f"the broadcast had no answer within {timeout:g} s; {state}") from None

    async def show(self, payload: Any, timeout: float | None) -> None:
        """Track this, or untrack where it is None. Raises what ``Channel.track`` says."""
        if payload is not None and not isinstance(payload, dict):
            raise UsageError(f"what is tracked is a dict, not {type(payload).__name__}")
        data = None if payload is None else encoded(payload)[0]
        if self._channel.state in (ChannelState.CLOSED, ChannelState.LEAVING):
            if data is None:
                return
            raise UsageError(
                f"channel {self._channel.name!r} is not subscribed", hint="call subscribe() first"
            )
        core, topic = self._client._core, self._channel.topic
        try:
            async with asyncio.timeout(timeout):
                await self._answered(lambda number: self._client._apply(core.show(topic, data, number)))
        except TimeoutError:
            what = "presence" if data is None else "what was tracked"
            late = f"the server did not confirm {what} within {timeout:g} s"
            raise TimedOut(late) from self._channel._last_error

    def settle(self, settled: Settle) -> None:
        """An answer is here, or none will come."""
        future = self._awaited.get(settled.number)
        if future is None or future.done():
            return
        if settled.error is None:
            future.set_result(None)
        else:
            future.set_exception(settled.error)

    @property
    def _joined(self) -> bool:
        join = self._client._core.joins.get(self._channel.topic)
        return join is not None and join.speaks

    def _push(self, said: Said, number: int | None) -> None:
        for send in self._client._core.broadcast(self._channel.topic, said, number):
            self._client._link.send(send.text)

    async def _answered(self, say: Callable[[int], None]) -> None:
        number = next(self._numbers)
        future = self._awaited[number] = asyncio.get_running_loop().create_future()
        try:
            with self._client._call():
                say(number)
                await future
        finally:
            del self._awaited[number]
            if future.done() and not future.cancelled():
                future.exception()  # seen, also where this was cancelled just as it came
            self._client._core.abandon(self._channel.topic, number)
