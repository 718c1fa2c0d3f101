"""The SDK's core without sockets, brought to where a test begins. Its channel is ``A``."""

import json
from collections.abc import Sequence
from typing import Any

from rowcast_client._core.asking import How
from rowcast_client._core.connection import Connection
from rowcast_client._core.phases import Timing
from rowcast_client._core.wants import Authorize, Send, Want
from rowcast_client.retry import RetryPolicy

A = "realtime:a"


def frame(join_ref: str | None, ref: str | None, event: str, payload: Any) -> str:
    """A text frame of the server's on the channel."""
    return json.dumps([join_ref, ref, A, event, payload])


def reply(join_ref: str, ref: str, status: str = "ok", response: Any = None) -> str:
    """An answer of the server's."""
    return frame(join_ref, ref, "phx_reply", {"status": status, "response": response or {}})


def sent(wants: Sequence[Want]) -> list[Any]:
    """The frames to send, decoded."""
    return [json.loads(want.text) for want in wants if isinstance(want, Send)]


def connected() -> Connection:
    """A core whose socket 1 is open."""
    core = Connection(Timing(10, 25, 5), RetryPolicy(random=lambda: 1.0))
    core.connect(0)
    core.opened(1, 0)
    return core


def joined(how: How) -> tuple[Connection, str, Any]:
    """A core whose channel is SUBSCRIBED, the join's reference, and the ``config`` that it said."""
    core = connected()
    (want,) = core.subscribe(A, (), 0, how)
    ref, config, _ = accept(core, want, 1)
    return core, ref, config


def rejoined(core: Connection, socket: int, now: float, *, messages: bool = False) -> tuple[str, list[Want]]:
    """Open the next socket and have the channel joined again: the join's reference, what is wanted then."""
    core.tick(now)
    (want,) = core.opened(socket, now)
    ref, _, wants = accept(core, want, socket, now, messages=messages)
    return ref, wants


def accept(
    core: Connection, want: Want, socket: int, now: float = 0, *, messages: bool = False
) -> tuple[str, Any, list[Want]]:
    """Answer a join that waits for its token: its reference, its ``config``, and what is wanted then."""
    assert isinstance(want, Authorize)
    (join,) = sent(core.authorized(A, want.join_ref, None, now))
    answer = reply(want.join_ref, want.join_ref, "ok", {"messages": True} if messages else {})
    return want.join_ref, join[4]["config"], core.received(socket, answer, now)
