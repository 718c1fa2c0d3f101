"""The stage that the tests of one module share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from support import databases
from transcripts.stage import Stage, open_stage


@pytest.fixture(scope="module")
async def stage(
    postgres: str,
    migrated_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stage]:
    """A server with the tables of the transcripts."""
    name = next(database_names)
    database = databases.create(postgres, name, template=migrated_template)
    async with open_stage(database, tmp_path_factory.mktemp("stage") / "server.log") as opened:
        yield opened
    databases.drop(postgres, name)
