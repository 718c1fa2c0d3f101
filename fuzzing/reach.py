"""Which inputs are worth keeping: as few as reach all that is reached."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final

#: Whose lines count. Of what is not ours, what a client's bytes reach first.
GUIDES: Final = ("rowcast", "websockets", "uvicorn")
#: How often a step was taken, roughly: an input in which something happens again is another one.
_TIMES: Final = (1, 4)

Step = tuple[CodeType, int, int, int]


def worth_keeping(
    fuzz: Callable[[bytes], None], kept: Iterable[bytes], found: Iterable[bytes]
) -> Iterator[bytes]:
    """Of what was found, what reaches further than ``kept`` does: what reaches furthest comes first."""
    reached: set[Step] = set()
    for data in kept:
        reached |= _reached(fuzz, data)
    left = [(_reached(fuzz, data) - reached, data) for data in found]
    while left:
        steps, best = max(left, key=lambda each: (len(each[0]), -len(each[1])))
        if steps:
            yield best
        left = [(further, data) for more, data in left if (further := more - steps)]


def _reached(fuzz: Callable[[bytes], None], data: bytes) -> set[Step]:
    counts: dict[tuple[CodeType, int, int], int] = {}
    with _traced(counts):
        fuzz(data)
    return {(*step, times) for step, count in counts.items() for times in _TIMES if count >= times}


@contextmanager
def _traced(counts: dict[tuple[CodeType, int, int], int]) -> Iterator[None]:
    """Count each step from one line of a function to the next."""

    def called(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in GUIDES:
            return None
        code, last = frame.f_code, 0

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            step = (code, last, frame.f_lineno)
            counts[step] = counts.get(step, 0) + 1
            last = frame.f_lineno
            return line

        return line

    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(None)
