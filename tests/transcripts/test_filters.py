"""Every filter that the original was seen to take delivers what it delivered there."""

import pytest

from transcripts.filters import DELETE, INSERT, SEEN, UPDATE, Seen
from transcripts.stage import Stage
from transcripts.steps import on

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("filter_", SEEN, ids=repr)
async def test_a_filter_delivers_what_was_seen(stage: Stage, filter_: str) -> None:
    await stage.run("delete from alltypes")
    await stage.settle()
    async with stage.client() as client:
        await client.subscribe("realtime:f", on("alltypes", filter=filter_))
        await stage.run(INSERT, UPDATE, DELETE)
        await stage.settle()
        rows = await client.rows("realtime:f")
    seen = SEEN[filter_]
    assert rows == [
        *(("INSERT", number) for number in seen.inserted),
        *([("UPDATE", 1)] if seen.updated else []),
        *([("DELETE", 1)] if _deleted_here(seen) else []),
    ]


def _deleted_here(seen: Seen) -> bool:
    """The difference DELETES: all of the old row is looked at, not its identity alone.

    The old row of the DELETE is the new row of the UPDATE, so a filter that passed the one passes the other.
    """
    return seen.updated


def test_there_a_delete_was_lost_to_every_filter_on_a_column_beside_the_key() -> None:
    lost = {filter_ for filter_, seen in SEEN.items() if seen.deleted is not _deleted_here(seen)}
    assert len(lost) == 15
    assert not any(filter_.strip().startswith("id=") for filter_ in lost)
