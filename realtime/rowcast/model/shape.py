"""What the JSON of a column's value is: as much of the catalog as is needed to read a row without asking it.

This module performs no I/O. A shape has its domains resolved; it is made by ``rowcast.shape_of`` and stands,
as JSON, in the column's entry of ``rowcast.relations``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

#: An enum: a JSON string.
ENUM: Final = "enum"
#: A text type whose collation is not deterministic: equal values may differ in their bytes.
COLLATED: Final = "collated"
#: A range or a multirange: a JSON string.
RANGE: Final = "range"
#: A type that does not come with Postgres: a JSON string, its text.
OTHER: Final = "other"
#: Any JSON: what a type's cast to json gives, and what is nested too deep to be described.
ANY: Final = "any"


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """An array of any number of dimensions: lists in lists, or null; ``of`` is the shape of its elements."""

    of: "Shape"


@dataclass(frozen=True, slots=True)
class RowShape:
    """A composite: a JSON object with these fields, or null. They stand in the order of the type."""

    fields: tuple[tuple[str, "Shape"], ...]


#: A scalar's shape is a word: one of those above, or the name of a type that comes with Postgres (``int4``).
Shape: TypeAlias = str | ArrayShape | RowShape


def parse_shape(value: object) -> Shape:
    """The shape that decoded JSON means. What is not understood, as of a later version, is ANY."""
    match value:
        case str():
            return value
        case {"array": element}:
            return ArrayShape(parse_shape(element))
        case {"row": [*fields]}:
            return _row(fields)
        case _:
            return ANY


def _row(fields: Sequence[object]) -> Shape:
    read: list[tuple[str, Shape]] = []
    for field in fields:
        match field:
            case [str(name), shape]:
                read.append((name, parse_shape(shape)))
            case _:
                return ANY
    return RowShape(tuple(read))
