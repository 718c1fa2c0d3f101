"""Broadcasts by REST: one, or a batch, to whoever is joined to their topics.

    POST /api/broadcast                              a batch, as text in either version
    POST /api/broadcast/:topic/events/:event         one, its body the payload: JSON, or any bytes

All policies are asked before anything is sent; what is sent goes out within one turn of the event loop.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

import structlog
from starlette.requests import Request
from starlette.responses import Response

from rowcast.model.allowed import ChannelRequest, ChannelUnavailable
from rowcast.model.message import Message
from rowcast.protocol.batches import (
    BLANK,
    INVALID,
    TOO_LARGE,
    UNSTORED,
    BatchError,
    messages_of,
    parse_batch,
)
from rowcast.protocol.broadcasts import MAX_PART, MessageError, UserBroadcast, fits_binary, message_id
from rowcast.session.channel import PREFIX
from rowcast.web.requests import BYTES, JSON, Refused, Sender, answer, body_of, decoded, media_type

_PATH: Final = "/api/broadcast"
_EXCEEDED: Final = "You have exceeded your rate limit"
_TOO_MANY: Final = "Too many messages to broadcast, please reduce the batch size"
#: What policies are not shown of a request: it may be somebody else's to use.
_SECRET: Final = frozenset({"authorization", "apikey", "x-api-key", "cookie"})
#: Why policies could not be asked, as a join is told and as a request is.
_UNAVAILABLE: Final[Mapping[str, tuple[int, str]]] = {
    "QueryCanceled": (422, "Query canceled"),
    "MissingPartition": (422, "Missing messages partition"),
    "DatabaseLackOfConnections": (422, "Tenant database has too many connections"),
    "UnableToConnectToProject": (422, "Tenant database unavailable"),
    "IncreaseConnectionPool": (429, "Connection pool exhausted"),
}

log = structlog.get_logger("rowcast.web")


async def broadcast(request: Request) -> Response:
    """Either of the two, or 404."""
    parts = _parts(request)
    if parts == []:
        return await answer(request, _batch)
    if len(parts) == 3 and parts[1] == "events":
        return await answer(request, _single)
    return Response("Not Found", 404, media_type="text/plain")


async def _batch(sender: Sender) -> Response:
    services = sender.services
    media_type(sender.request, JSON)
    body = decoded(await body_of(sender.request, services.body_limit))
    sender.check_rate(_EXCEEDED)
    try:
        messages = messages_of(body)
        if sender.rate.average(sender.now) + len(messages) > sender.rate.limit:
            raise Refused(429, {"message": _TOO_MANY})
        store_public = services.limits.store_public
        batch = parse_batch(messages, services.limits.payload_size, store_public=store_public)
    except BatchError as error:
        raise Refused(422, {"errors": error.errors}) from None
    sender.rate.count(sender.now, len(batch))
    writable: dict[str, bool] = {}
    for name in dict.fromkeys(message.name for message in batch if message.private):
        writable[name] = await _may_write(sender, name)
    # As with Supabase, nobody is told of those that may not be sent.
    batch = [message for message in batch if not message.private or writable[message.name]]
    await _store(sender, [message.message for message in batch if message.message is not None])
    for message in batch:
        if message.message is None:
            services.topics.publish(PREFIX + message.name, message.broadcast, private=message.private)
    return Response(status_code=202)


async def _single(sender: Sender) -> Response:
    request, services = sender.request, sender.services
    raw = media_type(request, JSON, BYTES) == BYTES
    name, _, event = _parts(request)
    body = await body_of(request, services.body_limit)
    sender.check_rate(_EXCEEDED)
    if not raw and not isinstance(decoded(body), dict):
        body = b'{"_json":' + body + b"}"
    sent = UserBroadcast(event, body if raw or body else b"{}", raw)
    errors = {field: [BLANK] for field, text in (("event", event), ("topic", name)) if not text.strip()}
    if len(sent.payload) > services.limits.payload_size:
        errors["payload"] = [TOO_LARGE]
    if raw and not fits_binary(PREFIX + name, sent):
        errors["event"] = [f"with its topic, must have at most {MAX_PART} bytes each to go with bytes"]
    query = request.query_params
    private = query.get("private") == "true"
    # The last two are supabase-js's words. How long something is kept is not for its sender to say.
    store = "true" in (query.get("store"), query.get("persist")) or "persist[ttl]" in query
    try:
        id_ = message_id(query.get("id"))
    except MessageError:
        errors["id"] = [INVALID]
    if store and not private and not services.limits.store_public:
        errors["store"] = [UNSTORED]
    if errors:
        raise Refused(422, {"errors": errors})
    sender.rate.count(sender.now, 1)
    if private and not await _may_write(sender, name):
        raise Refused(403, {"message": "Unauthorized"})
    if store:
        await _store(sender, [Message(id_, name, private, event, sent.payload, raw)])
    else:
        services.topics.publish(PREFIX + name, sent, private=private)
    return Response(status_code=202)


async def _store(sender: Sender, messages: Sequence[Message]) -> None:
    """Store messages: they are heard once that is done."""
    messages = [one if one.id else replace(one, id=str(uuid.uuid4())) for one in messages]
    if (reason := await sender.services.storing.store(messages)) is not None:
        raise Refused(503, {"message": f"Unable to store broadcast: {reason}"})


async def _may_write(sender: Sender, name: str) -> bool:
    headers = {key: value for key, value in sender.request.headers.items() if key not in _SECRET}
    asked = ChannelRequest(name, sender.claims, headers)
    try:
        return (await sender.services.channels.may_write(asked)).broadcast
    except ChannelUnavailable as error:
        status, text = _UNAVAILABLE.get(error.code, (500, "Unable to authorize broadcast"))
        raise Refused(status, {"message": text}) from None
    except Exception as error:
        # A name and no arguments: an error's text may hold claims.
        log.error("authorize_failed", error=type(error).__name__)
        raise Refused(500, {"message": "Unable to authorize broadcast"}) from None


def _parts(request: Request) -> list[str]:
    """What follows in the path, decoded: a slash that was encoded is no end of a part."""
    path = request.scope.get("raw_path") or request.url.path.encode()
    _, _, rest = path.decode("latin-1").partition("?")[0].partition(_PATH)
    parts = rest.removesuffix("/").split("/")[1:]
    return [unquote(part) for part in parts]
