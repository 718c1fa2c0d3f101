"""Every entry that the original was seen to refuse is refused with its words; its join is not."""

import pytest

from rowcast.protocol.messages import Version
from transcripts.frames import OK, Told
from transcripts.refusals import ANSWERS
from transcripts.stage import Stage, both

pytestmark = pytest.mark.anyio


@both
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_entry_is_answered_with_the_words_that_were_seen(
    stage: Stage, name: str, version: Version
) -> None:
    entry, text = ANSWERS[name]
    async with stage.client(version) as client:
        await client.join("realtime:db-e", entry)
        await client.hears_event("realtime:db-e", OK if text is None else Told(text))
        await client.hears_nothing(listening=text is None)
