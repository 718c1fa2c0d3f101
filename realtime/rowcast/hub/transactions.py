"""Channels that are sent changes by the transaction: theirs are kept until it is known to be complete, or no
longer fits one message. Runs on the event loop only; nothing here waits.
"""

from collections.abc import Sequence

from rowcast.hub.counts import Counts
from rowcast.hub.feed import Subscriber, Transaction
from rowcast.model.change import Change
from rowcast.protocol.changes import encode_transaction
from rowcast.protocol.frames import text_frame
from rowcast.protocol.messages import Version


class Transactions:
    """Of each channel the transaction that is open. ``limit`` bounds a whole message, in bytes."""

    def __init__(self, limit: int, counts: Counts) -> None:
        self._limit, self._counts = limit, counts
        self._open: dict[Subscriber, None] = {}
        #: Equal messages are encoded once.
        self._frames: dict[tuple[object, ...], bytes] = {}
        self._change: Change | None = None

    def __len__(self) -> int:
        return len(self._open)

    def fits(self, part: bytes, topic: str, version: Version, change: Change) -> bool:
        """Whether a change can go in a message of its own."""
        size = _size(topic, version, change.commit_timestamp)
        return size + len(part) + max(len(change.before), len(change.position)) <= self._limit

    def add(self, subscriber: Subscriber, change: Change, part: bytes) -> None:
        """A channel is to be sent this of a change."""
        if change is not self._change:
            self._frames.clear()
            self._change = change
        open_ = subscriber.transaction
        if open_ is None:
            size = _size(subscriber.topic, subscriber.version, change.commit_timestamp)
            open_ = Transaction(change.before, change.position, change.commit_timestamp, size)
            subscriber.transaction = open_
            self._open[subscriber] = None
        elif open_.commit_timestamp != change.commit_timestamp:
            # It was off the stream when that transaction ended.
            self.finish(subscriber)
            self.add(subscriber, change, part)
            return
        need = len(part) + max(len(open_.before), len(change.position))
        while open_.parts and open_.size + need > self._limit:
            self._send_some(subscriber, open_, change.seq)
        open_.parts.append((change.seq, part))
        # With the comma before it or after it.
        open_.size += len(part) + 1
        open_.position = change.position

    def _send_some(self, subscriber: Subscriber, open_: Transaction, seq: int) -> None:
        """Send what is there, but for what is about change ``seq``: that stays in one message if it can."""
        kept = [part for part in open_.parts if part[0] == seq]
        sent = open_.parts[: -len(kept)] if kept else open_.parts
        if not sent:
            sent, kept = kept, []
        self._send(subscriber, open_, [part for _, part in sent], last=False)
        open_.parts = kept
        open_.size -= sum(len(part) + 1 for _, part in sent)

    def end(self) -> None:
        """The transaction is complete: send what is there."""
        for subscriber in self._open:
            self.finish(subscriber)
        self._open.clear()
        self._frames.clear()
        self._change = None

    def finish(self, subscriber: Subscriber) -> None:
        """Send a channel what it has of a transaction, as the last of it."""
        # None where its changes were missed meanwhile.
        if (open_ := subscriber.transaction) is not None:
            self._send(subscriber, open_, [part for _, part in open_.parts], last=True)
            subscriber.transaction = None

    def take(self, subscriber: Subscriber) -> None:
        """A channel comes with what it has of a transaction."""
        if subscriber.transaction is not None:
            self._open[subscriber] = None

    def let_go(self, subscriber: Subscriber) -> None:
        """A channel goes, with what it has."""
        self._open.pop(subscriber, None)

    def _send(
        self, subscriber: Subscriber, open_: Transaction, parts: Sequence[bytes], *, last: bool
    ) -> None:
        # Who is cut off before the last message is sent all of them again.
        position = open_.position if last else open_.before
        key = (subscriber.topic, subscriber.version, position, last, *parts)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = text_frame(
                encode_transaction(
                    parts,
                    subscriber.topic,
                    subscriber.version,
                    commit_timestamp=open_.commit_timestamp,
                    position=position,
                    last=last,
                )
            )
        self._counts.messages += 1
        subscriber.lane.push(frame)


def _size(topic: str, version: Version, commit_timestamp: str) -> int:
    """Of the longest message without changes and position, in bytes."""
    return len(
        encode_transaction((), topic, version, commit_timestamp=commit_timestamp, position="", last=False)
    )
