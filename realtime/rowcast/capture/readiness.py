"""What has to be known before changes are handed out: who may read their tables, with every filter ready."""

from collections.abc import Sequence

import asyncpg

from rowcast.capture.acceptance import Rights
from rowcast.capture.audiences import Audiences
from rowcast.capture.filters import Filters
from rowcast.capture.judging import Visibility
from rowcast.capture.moves import Moves
from rowcast.model.change import Relation


class Readiness:
    """Asks the catalog for what is not known yet. For the reader alone, as it moves subscribers."""

    def __init__(
        self, rights: Rights, visibility: Visibility, audiences: Audiences, moves: Moves, filters: Filters
    ) -> None:
        self._rights, self._visibility = rights, visibility
        self._audiences, self._moves, self._filters = audiences, moves, filters

    def forget_rights(self) -> None:
        """The catalog changed: privileges and policies are asked for anew before the next change."""
        self._rights.forget()
        self._visibility.forget()

    async def prepare(self, connection: asyncpg.Connection, versions: Sequence[Relation]) -> None:
        """Be ready for changes of these versions of tables, with nothing awaited since."""
        audiences, rights = self._audiences, self._rights
        oids = {relation.oid for relation in versions}
        while True:
            await rights.load(connection, oids)
            unready = [relation for relation in versions if not audiences.is_ready(relation)]
            judged = [relation for relation in versions if self._is_judged(relation)]
            unjudged = [one for relation in judged for one in audiences.unjudged(relation, rights.may_read)]
            if not unready and not unjudged:
                return
            for relation in unready:
                movers = await audiences.make_ready(connection, self._filters, relation)
                await self._moves.attach_again(movers)
            await self._moves.attach_again(unjudged, judged=True)

    def _is_judged(self, relation: Relation) -> bool:
        """Whether there may be somebody for whom rows of this table are to be judged."""
        readings = [self._rights.may_read(role, relation) for role in self._rights.roles]
        return any(reading is not None and reading.judged for reading in readings)
