"""One change on its way: each distinct part of it is encoded once, each role asked once.

Runs on the event loop only; nothing here waits.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from rowcast.hub.counts import Counts
from rowcast.hub.feed import Subscriber
from rowcast.hub.matching import Audience
from rowcast.hub.transactions import Transactions
from rowcast.model.binding import Binding
from rowcast.model.change import Change, Op, Relation
from rowcast.model.claims import Subject
from rowcast.model.filter import conditions
from rowcast.model.reading import NOTHING, Reading, Seen, View
from rowcast.protocol.changes import (
    encode_data,
    encode_keyless,
    encode_legacy,
    encode_message,
    encode_part,
    encode_reduced,
)
from rowcast.protocol.frames import text_frame

#: How a role may read a table; None where it may not.
MayRead = Callable[[str, Relation], Reading | None]
#: What was judged of a change, by who looks. Who is not there sees nothing.
Sees = Mapping[Subject, Seen]
NO_SEES: Final[Sees] = {}


class Sending:
    """One change on its way. ``limit`` bounds a whole message, in bytes; it is not for those ``without``."""

    def __init__(
        self,
        change: Change,
        may_read: MayRead,
        limit: int,
        counts: Counts,
        transactions: Transactions,
        sees: Sees = NO_SEES,
        without: Collection[Subscriber] = (),
    ) -> None:
        self._change, self._may_read, self._sees, self._without = change, may_read, sees, without
        self._limit, self._counts, self._transactions = limit, counts, transactions
        self._data: dict[View | None, bytes] = {}
        #: The same for who is sent more about the change.
        self._early: dict[View | None, bytes] = {}
        self._reduced: dict[tuple[View, bool], bytes] = {}
        self._readings: dict[str, Reading | None] = {}

    def reading(self, role: str) -> Reading | None:
        """How a role may read the changed table."""
        if role not in self._readings:
            self._readings[role] = self._may_read(role, self._change.relation)
        return self._readings[role]

    def hears(self, role: str, binding: Binding) -> bool:
        """Whether a role may hear by a binding at all: what its filter finds tells of columns.

        Of a row that it may not see, it may know the primary key at most.
        """
        reading = self.reading(role)
        if reading is None or binding.filter is None or self._change.op is Op.TRUNCATE:
            return True
        columns = {one.column for one in conditions(binding.filter)}
        if reading.judged and self._is_open(reading) and not columns <= self._change.relation.key:
            return False
        return columns.isdisjoint(reading.hidden)

    def judged(self, role: str) -> bool:
        """Whether the change is to be judged for a role, by the claims of whoever looks."""
        reading = self.reading(role)
        return reading is not None and self._is_judged(reading)

    def shows(self, subscriber: Subscriber) -> bool:
        """Whether somebody may see the row that the change is reported by."""
        reading = self.reading(subscriber.subject.role)
        if reading is None or not self._is_judged(reading):
            return reading is not None
        seen = self._sees.get(subscriber.subject)
        return seen is not None and (seen.old if self._change.op is Op.LEAVE else seen.row)

    def send(self, audience: Audience, members: Collection[Subscriber]) -> None:
        """Send it to those members of an audience who may see it."""
        if self._without:
            members = [one for one in members if one not in self._without]
            if not members:
                return
        reading = self.reading(audience.role)
        if reading is None:
            self._counts.hidden += len(members)
        elif self._is_open(reading):
            key = self._change.relation.key
            self._push(audience, members, View(audience.select, reading.hidden, key) if key else None)
        elif not self._is_judged(reading):
            self._push(audience, members, View(audience.select, reading.hidden))
        elif self._change.op is not Op.LEAVE:
            self._send_judged(audience, members, reading.hidden)
        elif whole := [subscriber for subscriber in members if self.shows(subscriber)]:
            self._push(audience, whole, View(audience.select, reading.hidden))

    def _send_judged(
        self, audience: Audience, members: Collection[Subscriber], hidden: frozenset[str]
    ) -> None:
        """Who may see the new row, and not the one before it, is shown nothing of that."""
        whole: list[Subscriber] = []
        new: list[Subscriber] = []
        for subscriber in members:
            seen = self._sees.get(subscriber.subject)
            if seen is not None and seen.row:
                (whole if seen.old else new).append(subscriber)
        self._counts.hidden += len(members) - len(whole) - len(new)
        if whole:
            self._push(audience, whole, View(audience.select, hidden))
        if new:
            self._push(audience, new, View(audience.select, hidden, NOTHING))

    def _is_judged(self, reading: Reading) -> bool:
        # A TRUNCATE has no row.
        return reading.judged and self._change.op is not Op.TRUNCATE and not self._is_open(reading)

    def _is_open(self, reading: Reading) -> bool:
        return reading.open_deletes and self._change.op is Op.DELETE

    def _push(self, audience: Audience, members: Collection[Subscriber], view: View | None) -> None:
        """``view`` is None for a DELETE that is for everybody, and has no key to be told by."""
        message = self._message(audience, view)
        if audience.group:
            for subscriber in members:
                self._transactions.add(subscriber, self._change, message)
            return
        frame = text_frame(message)
        self._counts.messages += len(members)
        for subscriber in members:
            subscriber.lane.push(frame)

    def _message(self, audience: Audience, view: View | None) -> bytes:
        change, last = self._change, audience.last
        known = self._data if last else self._early
        data = known.get(view)
        if data is None:
            data = encode_keyless(change, last=last) if view is None else encode_data(change, view, last=last)
            known[view] = data
        message = self._wrap(audience, data)
        if view is None or self._fits(audience, message):
            return message
        reduced = self._reduced.get((view, last))
        if reduced is None:
            reduced = self._reduced[view, last] = encode_reduced(change, view, last=last)
        return self._wrap(audience, reduced)

    def _fits(self, audience: Audience, message: bytes) -> bool:
        if audience.group:
            return self._transactions.fits(message, audience.topic, audience.version, self._change)
        return len(message) <= self._limit

    def _wrap(self, audience: Audience, data: bytes) -> bytes:
        """The message, or what goes into one with the rest of its transaction."""
        if audience.group:
            return encode_part(data, audience.ids)
        if audience.legacy:
            return encode_legacy(data, audience.topic, self._change.op, audience.version)
        return encode_message(data, audience.topic, audience.ids, audience.version)
