"""Shapes, as they are read from the JSON that describes a relation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.shape import ANY, ArrayShape, RowShape, Shape, parse_shape

NAMES = st.text(max_size=8)
SHAPES: st.SearchStrategy[Shape] = st.recursive(
    NAMES,
    lambda inner: st.one_of(
        st.builds(ArrayShape, inner),
        st.builds(RowShape, st.lists(st.tuples(NAMES, inner), max_size=4).map(tuple)),
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["array", "row"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["array", "row", "x"]), inner, max_size=2)
    ),
    max_leaves=12,
)


def written(shape: Shape) -> object:
    """What SQL writes for a shape."""
    match shape:
        case str():
            return shape
        case ArrayShape(of):
            return {"array": written(of)}
        case RowShape(fields):
            return {"row": [[name, written(part)] for name, part in fields]}


@given(SHAPES)
def test_a_shape_is_read_as_it_was_written(shape: Shape) -> None:
    assert parse_shape(written(shape)) == shape


@pytest.mark.parametrize(
    "value", [None, 1, [], {}, {"map": "text"}, {"row": "int4"}, {"row": [["a"]]}, {"row": [[1, "int4"]]}]
)
def test_what_a_later_version_may_write_is_read_as_any_json(value: object) -> None:
    assert parse_shape(value) == ANY
    assert parse_shape({"array": value}) == ArrayShape(ANY)


@given(JSON)
def test_no_json_is_refused_and_every_shape_can_be_compared(value: object) -> None:
    assert {parse_shape(value)} == {parse_shape(value)}
