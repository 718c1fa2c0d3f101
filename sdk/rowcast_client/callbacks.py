"""Callbacks: what users register, checked at once, and called the same way whatever their kind."""

import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from .broadcast import Broadcast
from .change import Change
from .errors import RowcastError, UsageError
from .gap import Gap
from .presence import PresenceEvent, PresenceKind
from .snapshot import Snapshot
from .states import SubscribeStatus
from .transaction import Transaction

Event = Literal["*", "INSERT", "UPDATE", "DELETE"]


class SnapshotOptions(TypedDict, total=False):
    """Which rows a snapshot has: at most ``limit``, by ``order`` (``"created_at.desc,id"``; the primary key
    unless given), in batches of ``batch`` (500 unless given, at most 5,000)."""

    order: str
    limit: int
    batch: int


class PostgresFilter(TypedDict, total=False):
    """Which changes to hear of, in the words of the wire.

    ``filter`` is what a row must pass: ``done=eq.false``, several joined by commas. ``select`` names the
    columns wanted; the primary key comes with them. ``snapshot`` asks for the rows as they are, before their
    changes. ``leave`` asks to be told when an update takes a row out of the filter or out of sight,
    ``truncate`` when the table is emptied; the latter comes with the event ``*`` only.
    """

    event: str
    schema: str
    table: str
    filter: str
    select: Sequence[str]
    snapshot: bool | SnapshotOptions
    leave: bool
    truncate: bool


class EventFilter(TypedDict, total=False):
    """Which broadcasts to hear: those of an ``event``, or all."""

    event: str


class PresenceFilter(TypedDict, total=False):
    """What of presence to hear: ``sync``, ``join`` or ``leave``, or all three."""

    event: PresenceKind


class SystemMessage(TypedDict, total=False):
    """What a ``system`` callback is given. ``expires_in``: the seconds until the channel's token ends."""

    extension: str
    status: str
    message: str
    channel: str
    expires_in: float


# `object` on purpose: a coroutine is awaited, and anything else a callback may return is dropped.
ChangeCallback = Callable[[Change], object]
SnapshotCallback = Callable[[Snapshot], object]
TransactionCallback = Callable[[Transaction], object]
GapCallback = Callable[[Gap], object]
SystemCallback = Callable[[SystemMessage], object]
BroadcastCallback = Callable[[Broadcast], object]
PresenceCallback = Callable[[PresenceEvent], object]
StatusCallback = (
    Callable[[SubscribeStatus], object] | Callable[[SubscribeStatus, RowcastError | None], object]
)
ErrorCallback = Callable[[RowcastError], object]

_EVENTS = ("*", "INSERT", "UPDATE", "DELETE")
PRESENCE_EVENTS = ("sync", "join", "leave")


def checked(callback: Any, arguments: int, what: str) -> Any:
    """The callback, if it can be called with so many positional arguments. Raises UsageError."""
    if not callable(callback):
        raise UsageError(f"the {what} callback must be callable, not {type(callback).__name__}")
    if not takes(callback, arguments):
        plural = "argument" if arguments == 1 else "arguments"
        raise UsageError(f"the {what} callback must take {arguments} positional {plural}")
    return callback


def takes(callback: Callable[..., object], arguments: int) -> bool:
    """Whether it can be called with so many positional arguments. What shows no signature is believed."""
    try:
        inspect.signature(callback).bind(*(None for _ in range(arguments)))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def status_callback(callback: Any) -> Callable[[SubscribeStatus, RowcastError | None], object]:
    """``on_status`` in its longer form: ``(status)`` and ``(status, error)`` are both welcome."""
    if callable(callback) and takes(callback, 2):
        return callback  # type: ignore[no-any-return]
    short = checked(callback, 1, "status")
    return lambda status, _: short(status)


def error_callback(callback: Any) -> ErrorCallback:
    """``on_error``: it is called wherever a fault arises, so it must not be a coroutine function."""
    if inspect.iscoroutinefunction(callback):
        raise UsageError("on_error must be a plain function", hint="start a task in it if you need to await")
    return checked(callback, 1, "on_error")  # type: ignore[no-any-return]


async def call(callback: Callable[..., object], *arguments: object) -> None:
    """Call it, and await what it returned if that can be awaited."""
    result = callback(*arguments)
    if inspect.isawaitable(result):
        await result


def describe(callback: Callable[..., object], fault: BaseException) -> str:
    """Who raised what, and where. Not what the exception says: that may be data of a row."""
    name = getattr(callback, "__qualname__", type(callback).__name__)
    at = ""
    for frame, line in traceback.walk_tb(fault.__traceback__):
        at = f" at {Path(frame.f_code.co_filename).name}, line {line},"
    return f"callback {name} raised {type(fault).__name__}{at}"


def event_of(filter_: Any, what: str, known: Sequence[str] | None = None) -> str | None:
    """The event that is asked for, None for all. Raises UsageError."""
    if not isinstance(filter_, dict) or filter_.keys() - {"event"}:
        raise UsageError(f"{what} takes a dict such as {{'event': '{known[0] if known else 'cursor'}'}}")
    event = filter_.get("event")
    if event in (None, "*"):
        return None
    if not isinstance(event, str) or (known is not None and event not in known):
        which = f"one of {', '.join(known)}" if known else "a text"
        raise UsageError(f"event of {what} must be {which}")
    return event


def binding_of(filter_: Any) -> dict[str, Any]:
    """The entry of the join that asks for these changes. Raises UsageError for what can mean nothing."""
    if not isinstance(filter_, dict):
        raise UsageError("postgres_changes takes a dict such as {'event': '*', 'table': 'todos'}")
    if unknown := filter_.keys() - PostgresFilter.__annotations__.keys():
        known = ", ".join(PostgresFilter.__annotations__)
        raise UsageError(
            f"postgres_changes does not know {sorted(map(str, unknown))}", hint=f"it knows {known}"
        )
    binding = {key: value for key, value in filter_.items() if value is not None}
    binding["event"] = str(binding.get("event", "*")).upper()
    if binding["event"] not in _EVENTS:
        raise UsageError(f"event must be one of {', '.join(_EVENTS)}")
    if not binding.keys() & {"schema", "table"}:
        raise UsageError("postgres_changes needs a schema or a table")
    if "table" in binding:
        # The same without a filter; with one, the server takes no table without a schema.
        binding.setdefault("schema", "public")
    if not isinstance(binding.get("filter", ""), str):
        raise UsageError("filter must be a text such as 'done=eq.false'")
    if "select" in binding:
        binding["select"] = _columns(binding["select"])
    for flag in ("leave", "truncate"):
        if not isinstance(binding.get(flag, True), bool):
            raise UsageError(f"{flag} must be True or False")
    if "snapshot" in binding:
        binding["snapshot"] = _snapshot(binding["snapshot"])
    return {key: value for key, value in binding.items() if value is not False}


def _snapshot(asked: Any) -> bool | dict[str, Any]:
    if isinstance(asked, bool):
        return asked
    if not isinstance(asked, dict) or asked.keys() - SnapshotOptions.__annotations__.keys():
        known = ", ".join(SnapshotOptions.__annotations__)
        raise UsageError(f"snapshot must be True, or a dict with some of {known}")
    return {key: value for key, value in asked.items() if value is not None} or True


def _columns(select: Any) -> list[str]:
    # A text is a sequence of texts, too: each letter would be taken for a column.
    if not isinstance(select, list | tuple) or not all(isinstance(column, str) for column in select):
        raise UsageError("select must be a list of column names")
    return list(select)
