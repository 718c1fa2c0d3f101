"""The table of differences is complete, none of them is idle, and users are told of each."""

from pathlib import Path

import pytest

from transcripts.conversations import CONVERSATIONS
from transcripts.differences import DIFFERENCES, POSITIONS, Difference
from transcripts.steps import Differs

_TESTS = Path(__file__).parent.parent
_DOCUMENT = _TESTS.parent / "docs" / "compatibility.md"

each = pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)


@each
def test_a_difference_is_documented_under_its_name(difference: Difference) -> None:
    assert f"\n| {difference.name} | " in _DOCUMENT.read_text()


@each
def test_a_difference_names_conversations_and_tests_that_exist(difference: Difference) -> None:
    tests = "".join(path.read_text() for path in _TESTS.glob("*/test_*.py"))
    names = {conversation.name for conversation in CONVERSATIONS}
    assert [name for name in difference.where if name not in names and f"def {name}(" not in tests] == []


@pytest.mark.parametrize(
    "difference",
    # Positions show in every conversation.
    [difference for difference in DIFFERENCES if difference is not POSITIONS],
    ids=lambda difference: difference.name,
)
def test_a_difference_shows_in_the_conversations_that_it_names_and_in_no_other(
    difference: Difference,
) -> None:
    names = [conversation.name for conversation in CONVERSATIONS]
    shows = {
        conversation.name
        for conversation in CONVERSATIONS
        for step in conversation.steps
        if isinstance(step.heard, Differs) and step.heard.why is difference
    }
    assert shows == set(difference.where) & set(names)


def test_where_the_original_is_said_to_differ_it_does() -> None:
    for conversation in CONVERSATIONS:
        for step in conversation.steps:
            if isinstance(step.heard, Differs):
                assert step.heard.there != step.heard.here
