"""Values: what the server sends as JSON, as the Python types that Postgres' types mean.

A value that cannot be converted (a date after the year 9999, ``infinity``, a type not known here) stays as
JSON gives it; nothing here raises. Numbers are read from their digits, so that a numeric keeps each of them.
"""

from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

_ROW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_FAULTS = (ValueError, LookupError, TypeError, ArithmeticError)


def convert_row(row: bytes | msgspec.Raw, types: Mapping[str, str]) -> dict[str, Any]:
    """A row's JSON object as column -> value. ``types`` gives each column's ``pg_type.typname``."""
    return {name: convert(value, types.get(name, "")) for name, value in _ROW.decode(row).items()}


def convert(value: bytes | msgspec.Raw, type_: str) -> Any:
    """One value's JSON text as the Python type that ``type_`` means."""
    if type_.startswith("_"):
        return _array(value, type_[1:])
    plain = msgspec.json.decode(value)
    read = _READERS.get(type_)
    if read is None or plain is None or isinstance(plain, dict | list):
        return plain
    try:
        return read(plain, bytes(value).decode())
    except _FAULTS:
        return plain


def _array(value: bytes | msgspec.Raw, element: str) -> Any:
    """An array of any number of dimensions. Of json, the elements themselves may be lists."""
    if not bytes(value).startswith(b"["):
        return msgspec.json.decode(value)
    of_json = element in ("json", "jsonb")
    return [
        _array(item, element) if bytes(item).startswith(b"[") and not of_json else convert(item, element)
        for item in _ITEMS.decode(value)
    ]


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise ValueError("not a text")
    return plain


def _number(plain: Any, digits: str) -> str:
    if isinstance(plain, bool):
        raise ValueError("not a number")
    return plain if isinstance(plain, str) else digits


def _int(plain: Any, digits: str) -> int:
    return int(_number(plain, digits))


def _numeric(plain: Any, digits: str) -> Decimal:
    return Decimal(_number(plain, digits))


def _float(plain: Any, digits: str) -> float:
    return float(_number(plain, digits))


def _bool(plain: Any, _: str) -> bool:
    return plain if isinstance(plain, bool) else {"t": True, "true": True, "f": False, "false": False}[plain]


def _timestamptz(plain: Any, _: str) -> datetime:
    moment = datetime.fromisoformat(_text(plain))
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment


def _timestamp(plain: Any, _: str) -> datetime:
    moment = datetime.fromisoformat(_text(plain))
    if moment.tzinfo is not None:
        raise ValueError("a zone")
    return moment


def _timetz(plain: Any, _: str) -> time:
    clock = time.fromisoformat(_text(plain))
    if clock.tzinfo is None:
        raise ValueError("no zone")
    return clock


def _bytea(plain: Any, _: str) -> bytes:
    return bytes.fromhex(_text(plain).removeprefix("\\x"))


_READERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), _int),
    **dict.fromkeys(("float4", "float8"), _float),
    "numeric": _numeric,
    "bool": _bool,
    "timestamptz": _timestamptz,
    "timestamp": _timestamp,
    "date": lambda plain, _: date.fromisoformat(_text(plain)),
    "time": lambda plain, _: time.fromisoformat(_text(plain)),
    "timetz": _timetz,
    "uuid": lambda plain, _: UUID(_text(plain)),
    "bytea": _bytea,
}
