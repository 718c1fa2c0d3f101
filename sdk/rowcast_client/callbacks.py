"""Callbacks: what users register, checked at once, and called the same way whatever their kind."""

import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from .change import Change
from .errors import RowcastError, UsageError
from .states import SubscribeStatus

Event = Literal["*", "INSERT", "UPDATE", "DELETE"]


class PostgresFilter(TypedDict, total=False):
    """Which changes to hear of, in the words of the wire.

    ``filter`` is what a row must pass: ``done=eq.false``, several joined by commas. ``select`` names the
    columns wanted; the primary key comes with them.
    """

    event: str
    schema: str
    table: str
    filter: str
    select: Sequence[str]


class SystemMessage(TypedDict, total=False):
    """What a ``system`` callback is given. ``expires_in``: the seconds until the channel's token ends."""

    extension: str
    status: str
    message: str
    channel: str
    expires_in: float


# `object` on purpose: a coroutine is awaited, and anything else a callback may return is dropped.
ChangeCallback = Callable[[Change], object]
SystemCallback = Callable[[SystemMessage], object]
StatusCallback = (
    Callable[[SubscribeStatus], object] | Callable[[SubscribeStatus, RowcastError | None], object]
)
ErrorCallback = Callable[[RowcastError], object]

_EVENTS = ("*", "INSERT", "UPDATE", "DELETE")


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
    return binding


def _columns(select: Any) -> list[str]:
    # A text is a sequence of texts, too: each letter would be taken for a column.
    if not isinstance(select, list | tuple) or not all(isinstance(column, str) for column in select):
        raise UsageError("select must be a list of column names")
    return list(select)
