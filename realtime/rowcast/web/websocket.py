"""The WebSocket endpoint: the handshake, the loop that receives, and what a conversation wants done.

The loop waits for the next frame, and for what a private channel allows: what a client says is heard in
order. All else that takes time runs beside it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import structlog
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from rowcast.hub.feed import Gap, Subscriber
from rowcast.hub.lanes import Lane
from rowcast.model.allowed import Allowed, ChannelRequest, ChannelUnavailable
from rowcast.model.message import Message
from rowcast.protocol.broadcasts import encode_broadcast
from rowcast.protocol.codec import decode_binary, decode_text, encode
from rowcast.protocol.frames import text_frame
from rowcast.protocol.messages import MalformedMessage, ServerMessage, Version
from rowcast.session.connection import Connection
from rowcast.session.wants import (
    Attach,
    Authorize,
    Await,
    Close,
    Detach,
    Enter,
    Publish,
    Send,
    Store,
    Tell,
    Track,
    Untrack,
    Want,
)
from rowcast.web.fallback import AsgiSink
from rowcast.web.handshake import api_key, refuse, why_refused
from rowcast.web.membership import Memberships
from rowcast.web.requests import JSON_UTF8
from rowcast.web.services import Services
from rowcast.web.subscription import Subscription

FAST_LANE = "rowcast.fastlane"
_POLICY = 1008
#: The client's headers that policies of private channels may look at begin so.
_POLICY_HEADERS = "x-"
_TOO_BIG = 1009
_STOPPING = "The server is stopping: connect again"
_RETRY_SECONDS = 1
#: uvloop counts in milliseconds, and calls at once what is due within half of one.
_SHORTEST_TIMER = 0.001

log = structlog.get_logger("rowcast.web")


async def endpoint(websocket: WebSocket) -> None:
    """One client, from handshake to end."""
    services: Services = websocket.app.state.services
    version = Version.negotiate(websocket.query_params.get("vsn"))
    if version is None:
        await refuse(websocket, Response(status_code=403))
        return
    if services.stopping.refusing:
        headers = {"Retry-After": str(_RETRY_SECONDS)}
        await refuse(websocket, JSONResponse({"error": _STOPPING}, 503, headers, JSON_UTF8))
        return
    token = api_key(websocket)
    fault = why_refused(services, token)
    if fault is not None:
        await asyncio.sleep(services.handshake_delay)
        status, text = fault
        await refuse(websocket, JSONResponse({"error": text}, status_code=status, media_type=JSON_UTF8))
        return
    await websocket.accept()
    fast = websocket.scope.get("extensions", {}).get(FAST_LANE)
    if fast is not None:
        lane = fast.open_lane(services.lane_limit)
        conversation = _Conversation(services, websocket, version, token, lane)
        fast.joined = conversation.joined
        await conversation.run()
        return
    sink = AsgiSink(websocket.send)
    sink.lane = Lane(sink, services.lane_limit)
    conversation = _Conversation(services, websocket, version, token, sink.lane)
    works = [asyncio.ensure_future(work) for work in (conversation.run(), sink.run(), sink.aborted())]
    try:
        await asyncio.wait(works[::2], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for work in works:
            work.cancel()
        conversed, *_ = await asyncio.gather(*works, return_exceptions=True)
    if isinstance(conversed, Exception):
        raise conversed


class _Conversation:
    def __init__(
        self, services: Services, websocket: WebSocket, version: Version, token: str, lane: Lane
    ) -> None:
        self._services, self._websocket, self._version, self._lane = services, websocket, version, lane
        self._session = Connection(
            version,
            token,
            services.verify,
            services.limits,
            services.clock(),
            services.joins,
            services.seats,
        )
        self._subscriptions: dict[int, Subscription] = {}
        self._members = Memberships(services, version, lane)
        self._waits: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._timers: set[asyncio.TimerHandle] = set()
        self._delayed = 0
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at = 0.0
        self._question: Authorize | None = None
        self._headers = {
            name: value for name, value in websocket.headers.items() if name.startswith(_POLICY_HEADERS)
        }

    def joined(self) -> bool:
        """Whether it has a channel."""
        return self._session.joined

    async def run(self) -> None:
        """Receive until the client is gone."""
        self._arm()
        self._services.health.watch(self._healthy)
        try:
            while True:
                event = await self._websocket.receive()
                if event["type"] == "websocket.disconnect":
                    return
                self._take(event.get("text"), event.get("bytes"))
                while self._question is not None:
                    await self._authorize(self._question)
        except WebSocketDisconnect:
            return
        finally:
            self._services.health.leave(self._healthy)
            self._do(self._session.end())
            self._members.leave_all()
            for timer in self._timers:
                timer.cancel()
            if self._tick is not None:
                self._tick.cancel()
            self._lane.end()

    def _take(self, text: str | None, data: bytes | None) -> None:
        if self._lane.closing:
            return
        # Our own server refuses such a message before it is whole. Others have limits of their own.
        if len(text or data or b"") > self._services.limits.message_size:
            self._lane.close(_TOO_BIG, "the message is too big")
            return
        now = self._services.clock()
        try:
            message = (
                decode_text(text, self._version)
                if text is not None
                else decode_binary(data or b"", self._version)
            )
        except MalformedMessage as error:
            # Ignored, as the original does; what was in it is nobody's business.
            log.debug("malformed_message", fault=str(error))
            self._session.alive(now)
            return
        position = self._position() if message.event == "heartbeat" else None
        if message.event == "phx_join":
            self._services.health.look_again()
        self._do(self._session.receive(message, now, position))
        self._arm()

    def _do(self, wants: Iterable[Want]) -> None:
        for want in wants:
            match want:
                case Send(message, 0.0):
                    self._lane.push(self._frame(message))
                case Send(message, delay):
                    self._send_later(delay, self._frame(message))
                case Attach():
                    self._attach(want)
                case Authorize():
                    self._question = want
                case Enter():
                    subscription = self._subscriptions.get(want.channel)
                    hearing = None if subscription is None else subscription.subscriber.hearing
                    self._members.enter(want, hearing)
                case Tell(topic, broadcast):
                    if (frame := encode_broadcast(topic, broadcast, self._version)) is not None:
                        self._lane.push(frame)
                case Await(channel):
                    self._waits[channel] = self._loop.create_task(self._await(channel))
                case Publish():
                    self._members.publish(want)
                case Store():
                    self._members.store(want, partial(self._stored, want))
                case Track():
                    self._members.track(want)
                case Untrack(channel):
                    self._members.untrack(channel)
                case Detach(channel):
                    self._detach(channel)
                case Close(code, reason, 0.0):
                    self._lane.close(code, reason)
                case Close(code, reason, delay):
                    self._later(delay, partial(self._lane.close, code, reason))

    def _frame(self, message: ServerMessage) -> bytes:
        return text_frame(encode(message, self._version))

    def _send_later(self, delay: float, frame: bytes) -> None:
        """Refusals are sent late on purpose. Only so many may wait, of so many bytes."""
        limits, waiting = self._services.limits, self._delayed + len(frame)
        if len(self._timers) >= limits.refusals or (self._timers and waiting > self._services.lane_limit):
            self._lane.close(_POLICY, "too many refused joins: wait for their replies")
            return
        self._delayed = waiting

        def send() -> None:
            self._delayed -= len(frame)
            self._lane.push(frame)

        self._later(delay, send)

    def _later(self, delay: float, do: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            do()

        timer = self._loop.call_later(delay, run)
        self._timers.add(timer)

    def _attach(self, want: Attach) -> None:
        subscription = self._subscriptions.get(want.channel)
        if subscription is None:
            subscriber = Subscriber(
                topic=want.topic,
                version=self._version,
                lane=self._lane,
                lost=lambda: self._lost(want.channel),
                legacy=want.legacy,
                told=lambda status, text: self._told(want.channel, status, text),
                gap=want.gap,
                group=want.group,
                missed=lambda gap: self._missed(want.channel, gap),
                hearing=self._members.hearing(want) if want.messages else None,
            )
            subscription = self._subscriptions[want.channel] = Subscription(subscriber)
        if (hearing := subscription.subscriber.hearing) is not None:
            hearing.allowed = want.hears
        subscription.wanted = want
        if subscription.work is None or subscription.work.done():
            subscription.work = self._loop.create_task(self._subscribe(subscription))
        if not self._services.health.well:
            self._do(self._session.healthy(well=False, key=want.channel))

    async def _subscribe(self, subscription: Subscription) -> None:
        subscriber = subscription.subscriber
        while (want := subscription.take()) is not None:
            # Who hears already goes on, whatever it resumed from.
            resume = None if subscription.made else want.resume
            try:
                result = await self._services.feed.subscribe(subscriber, want.bindings, want.claims, resume)
            except Exception:
                log.exception("subscribe_failed")
                # Nothing may go on under a token that has been replaced.
                self._services.feed.unsubscribe(subscriber)
                del self._subscriptions[want.channel]
                refused = ("Unable to subscribe to changes: the server failed. Its log has the reason.",)
                self._do(self._session.attached(want.channel, want.attempt, refused, False, None))
                if (later := subscription.take()) is not None:
                    self._attach(later)
                return
            subscription.made = subscription.made or result.ok
            self._do(
                self._session.attached(want.channel, want.attempt, result.refused, result.ok, result.position)
            )

    async def _authorize(self, question: Authorize) -> None:
        self._question = None
        request = ChannelRequest(question.name, question.claims, self._headers)
        answer: Allowed | ChannelUnavailable
        replayed: Sequence[Message] = ()
        try:
            if question.writes:
                answer = await self._services.channels.may_write(request)
            else:
                answer = Allowed(broadcast=True, presence=True)
                if question.private:
                    answer = await self._services.channels.may_read(request, presence=question.presence)
                if question.replay is not None and answer.broadcast:
                    self._members.hold(question)
                    replayed = await self._services.stored.newest(
                        question.name, question.replay, private=question.private
                    )
        except ChannelUnavailable as error:
            answer = error
        except Exception as error:
            # A name and no arguments: an error's text may hold claims.
            log.error("authorize_failed", error=type(error).__name__)
            answer = ChannelUnavailable("UnknownErrorOnChannel", "the server failed. Its log has the reason.")
        self._do(self._session.authorized(answer, self._services.clock(), replayed))
        self._arm()

    async def _await(self, channel: int) -> None:
        ok = True
        try:
            async with asyncio.timeout(self._services.ready_seconds):
                await self._services.feed.ready()
        except TimeoutError:
            ok = False
        del self._waits[channel]
        self._do(self._session.ready(channel, self._services.clock(), ok=ok))

    def _detach(self, channel: int) -> None:
        self._members.leave(channel)
        if (wait := self._waits.pop(channel, None)) is not None:
            wait.cancel()
        subscription = self._subscriptions.pop(channel, None)
        if subscription is not None:
            if subscription.work is not None:
                subscription.work.cancel()
            self._services.feed.unsubscribe(subscription.subscriber)

    def _stored(self, want: Store, reason: str | None) -> None:
        self._do(self._session.stored(want.channel, want.asked, reason))

    def _told(self, channel: int, status: str, text: str) -> None:
        self._do(self._session.told(channel, status, text, self._position()))

    def _missed(self, channel: int, gap: Gap) -> None:
        if (subscription := self._subscriptions.get(channel)) is not None:
            # What it has of a transaction is without the rest of it.
            subscription.subscriber.transaction = None
        self._do(self._session.missed(channel, gap.reason, gap.since, gap.position))

    def _position(self) -> str | None:
        """From where all channels of the connection could resume: not known while one is behind, or is yet
        to be sent a part of a transaction."""
        channels = [one.subscriber for one in self._subscriptions.values()]
        if any(channel.behind or channel.transaction is not None for channel in channels):
            return None
        return self._services.feed.position_of(channels)

    def _healthy(self, well: bool) -> None:
        self._do(self._session.healthy(well=well))

    def _lost(self, channel: int) -> None:
        self._do(self._session.lost(channel, self._services.clock()))

    def _arm(self) -> None:
        """Have ``tick`` called at the session's deadline, if that is earlier than what stands."""
        at = self._session.deadline()
        if self._tick is not None:
            if at >= self._tick_at:
                return
            self._tick.cancel()
        self._tick_at = at
        self._tick = self._loop.call_later(max(_SHORTEST_TIMER, at - self._services.clock()), self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        self._do(self._session.tick(self._services.clock()))
        if not self._lane.closing:
            self._arm()
