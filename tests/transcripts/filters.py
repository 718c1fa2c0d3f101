"""What the original was seen to deliver for each filter on ``alltypes``.

Three rows are inserted; the first is updated, its `txt` from `abc` to `zzz`, and deleted. The replica
identity is the default one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_UUID: Final = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
INSERT: Final = (
    "insert into alltypes (id, txt, flag, u, m, ts, num, vc) values "
    f"(1, 'abc', true, '{_UUID}', 'happy', '2024-06-01 00:00:00+00', 10.5, 'abc'), "
    "(2, 'x,y', false, null, null, null, null, null), (3, null, null, null, null, null, null, null)"
)
UPDATE: Final = "update alltypes set txt = 'zzz' where id = 1"
DELETE: Final = "delete from alltypes where id = 1"


@dataclass(frozen=True, slots=True)
class Seen:
    """The rows whose INSERT came, and whether the UPDATE and the DELETE of the first did."""

    inserted: tuple[int, ...]
    updated: bool
    deleted: bool


def _seen(inserted: str, fate: str = "") -> Seen:
    return Seen(tuple(map(int, inserted)), "u" in fate, "d" in fate)


SEEN: Final[Mapping[str, Seen]] = {
    "id=eq.1": _seen("1", "ud"),
    "id=neq.1": _seen("23"),
    "id=lt.2": _seen("1", "ud"),
    "id=lte.1": _seen("1", "ud"),
    "id=gt.1": _seen("23"),
    "id=gte.2": _seen("23"),
    "id=in.(1,3)": _seen("13", "ud"),
    "txt=eq.abc": _seen("1"),
    "txt=like.a%": _seen("1"),
    "txt=like.a*": _seen(""),
    "txt=ilike.A%": _seen("1"),
    "txt=is.null": _seen("3"),
    "txt=not.is.null": _seen("12", "u"),
    "flag=is.true": _seen("1", "u"),
    "flag=is.unknown": _seen("3"),
    "txt=match.^a": _seen("1"),
    "txt=imatch.^A": _seen("1"),
    "txt=isdistinct.abc": _seen("23", "u"),
    "txt=isdistinct.null": _seen("123", "u"),
    "txt=eq.null": _seen(""),
    "txt=not.eq.abc": _seen("2", "u"),
    "id=not.in.(1,2)": _seen("3"),
    "id=gt.0,id=lt.2": _seen("1", "ud"),
    'txt=in.(abc,"x,y")': _seen("12"),
    'txt=eq."x,y"': _seen("2"),
    f"u=eq.{_UUID}": _seen("1", "u"),
    f"u=eq.{_UUID.upper()}": _seen("1", "u"),
    "m=eq.happy": _seen("1", "u"),
    "flag=eq.true": _seen("1", "u"),
    "flag=eq.t": _seen("1", "u"),
    "ts=gt.2024-01-01T00:00:00Z": _seen("1", "u"),
    "ts=eq.2024-06-01 00:00:00+00": _seen("1", "u"),
    "num=gte.10.5": _seen("1", "u"),
    "num=eq.10.50": _seen("1", "u"),
    "vc=eq.abc": _seen("1", "u"),
    " id=eq.1": _seen("1", "ud"),
    "id=eq. 1": _seen("1", "ud"),
    "": _seen("123", "ud"),
}
