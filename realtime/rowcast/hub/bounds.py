"""Filters that are one bound on one column, in order: those that a value is within are found by bisection."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Bounds(Generic[T]):
    """Things by their bound: lower ones (``value > bound``) or upper ones (``value < bound``).

    Of equal bounds those stand first that an equal value is above or within: a bound that includes its own
    value counts as just below it when it is a lower one, as just above it when it is an upper one.
    """

    def __init__(self, *, upper: bool) -> None:
        self._upper = upper
        self._places: list[tuple[Any, bool]] = []
        self._things: list[T] = []

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[T]:
        return iter(self._things)

    def add(self, bound: Any, *, inclusive: bool, thing: T) -> None:
        """Take a thing in."""
        place = self._place(bound, inclusive)
        at = bisect_right(self._places, place)
        self._places.insert(at, place)
        self._things.insert(at, thing)

    def remove(self, bound: Any, *, inclusive: bool, thing: T) -> bool:
        """Forget a thing; whether it was there."""
        place = self._place(bound, inclusive)
        for at in range(bisect_left(self._places, place), bisect_right(self._places, place)):
            if self._things[at] is thing:
                del self._places[at], self._things[at]
                return True
        return False

    def within(self, value: Any) -> Iterator[T]:
        """The things whose bound a value is within."""
        at = bisect_left(self._places, (value, True))
        yield from self._things[at:] if self._upper else self._things[:at]

    def _place(self, bound: Any, inclusive: bool) -> tuple[Any, bool]:
        return bound, inclusive is self._upper
