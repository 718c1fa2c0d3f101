"""Payloads of joins: any JSON is read or refused, and the reply echoes what was asked for, in its order.

The first line is the topic without its prefix, the rest the payload.
"""

from typing import Any, Final

import msgspec

from fuzzing.filters import check_filter
from rowcast.model.allowed import Allowed
from rowcast.model.binding import Binding, BindingError, binding_id, parse_binding
from rowcast.model.claims import Claims
from rowcast.model.rates import RateWindow
from rowcast.protocol.join import JoinError, parse_join
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.channel import PREFIX
from rowcast.session.connection import Connection
from rowcast.session.wants import Attach, Authorize, Enter, Send

_EVENTS: Final = {"*", "INSERT", "UPDATE", "DELETE"}
_LIMITS: Final = Limits(bindings=5)


def fuzz_joins(data: bytes) -> None:
    """Read one join, and have a conversation answer it."""
    line, _, rest = data.partition(b"\n")
    try:
        name, payload = line.decode(), msgspec.json.decode(rest)
    except (ValueError, RecursionError):
        return
    try:
        join = parse_join(payload, name)
    except JoinError:
        assert not (isinstance(payload, dict) and payload.get("config") in (None, {}))
        _answer(name, payload)
        return
    assert join.size == len(msgspec.json.encode(join.entries))
    assert join.legacy == ("config" not in payload)
    assert join.broadcast.replay is None or 1 <= join.broadcast.replay.limit <= 25
    bindings = [binding for entry in join.entries if (binding := _read(entry)) is not None]
    sent, attach = _answer(name, payload)
    if sent.message.payload["status"] == "ok":
        _check_echo(list(join.entries), sent.message.payload["response"]["postgres_changes"])
        attached = [] if attach is None else [binding.id for binding in attach.bindings]
        if len(join.entries) <= _LIMITS.bindings:
            assert attached == [binding.id for binding in bindings]
        assert len(attached) <= _LIMITS.bindings


def _read(entry: dict[str, Any]) -> Binding | None:
    number = binding_id(entry)
    assert 0 < number < 2**48
    assert binding_id(_reversed(entry)) == number
    try:
        binding = parse_binding(entry)
    except BindingError as error:
        _check_refusal(entry, str(error))
        return None
    assert binding.id == number
    assert binding.event in _EVENTS
    assert binding.select is None or 0 < len(binding.select) == len(set(binding.select))
    assert not any("\0" in name for name in (binding.schema, binding.table, *(binding.select or ())))
    if binding.filter is not None:
        check_filter(binding.filter)
    msgspec.json.encode(binding.describe())
    return binding


def _check_refusal(entry: dict[str, Any], text: str) -> None:
    if text.startswith("No subscription params") and {"user_token", "auth_token"} & entry.keys():
        assert text.endswith(": <redacted>")
    msgspec.json.encode(text)


def _answer(name: str, payload: Any) -> tuple[Send, Attach | None]:
    """The reply, which comes first, and what is to be attached, which comes before the topic is entered."""
    conversation = Connection(Version.V2, "anon", _verify, _LIMITS, 0.0, RateWindow(100))
    wants = conversation.receive(ClientMessage(PREFIX + name, "phx_join", payload, "2", "1"), 0.0)
    if isinstance(wants[-1], Authorize):
        assert len(wants) == 1
        wants = conversation.authorized(Allowed(True, True), 0.0)
    if isinstance(wants[-1], Enter):
        wants.pop()
    first, last = wants[0], wants[-1]
    assert isinstance(first, Send)
    assert (first.message.event, first.message.ref, first.message.join_ref) == ("phx_reply", "2", "1")
    assert all(isinstance(want, Send) for want in wants[:-1])
    return first, last if isinstance(last, Attach) else None


def _check_echo(entries: list[dict[str, Any]], echoes: list[dict[str, Any]]) -> None:
    assert len(echoes) == len(entries)
    for entry, echo in zip(entries, echoes, strict=True):
        assert list(echo) == ["id", *sorted(entry.keys() - {"id"})]
        assert echo == {**entry, "id": binding_id(entry)}


def _reversed(value: Any) -> Any:
    """The same JSON with the keys of its objects in the opposite order."""
    match value:
        case dict():
            return {key: _reversed(value[key]) for key in reversed(value)}
        case list():
            return [_reversed(inner) for inner in value]
        case _:
            return value


def _verify(token: str, now: float) -> Claims:
    return Claims("anon", now + 3600, {})
