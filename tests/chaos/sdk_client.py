"""A client of the SDK, through a relay of its own, whose channels are looked at as the raw ones are."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from chaos.schema import SAID, Subject
from chaos.streams import Entry, Heard, Profile, Row, Stream, Stretch, decode
from rowcast.model.position import Snapshot as Moment
from rowcast_client import (
    Broadcast,
    Change,
    Channel,
    Client,
    Gap,
    RetryPolicy,
    RowcastError,
    Rows,
    Snapshot,
    Transaction,
)
from support.links import Relay
from support.tokens import make_token


class SdkChannel:
    """One channel of the SDK, and the stream that its callbacks saw. Entries of a group have a table each."""

    def __init__(self, name: str, profile: Profile) -> None:
        self.profile, self.stream = profile, Stream(name, profile)
        self._channel: Channel | None = None
        self._messages = 0
        self._copying = bool(profile.snapshots)

    def attach(self, client: Client) -> None:
        """Subscribe on a client."""
        name, private = self.profile.topic or self.stream.name, self.profile.topic is not None
        channel = self._channel = client.channel(name, private=private).on("gap", self._gap)
        if private:
            channel.on("broadcast", self._message)
        if self.profile.group:
            entries: list[Any] = [entry.wire() for entry in self.profile.entries]
            channel.on("transaction", entries, self._transaction)
        for number, entry in enumerate(() if self.profile.group else self.profile.entries):
            if number == self.profile.messages:
                continue
            batches = self._batches(number) if entry.snapshot is not None else None
            channel.on("postgres_changes", entry.wire(), self._changes(number), on_snapshot=batches)
        channel.subscribe()

    def caught_up(self, target: Moment) -> bool:
        """Whether the channel says that it has seen all that ``target`` sees."""
        position = decode(self._channel.position if self._channel is not None else None)
        self._begun()
        return position is not None and position.start.covers(target)

    def _begun(self) -> Stretch:
        stretch = self.stream.open
        if stretch.start is None and not self._copying and self._channel is not None:
            stretch.start = self._channel.position
            if stretch.start is not None:
                # What came before it was subscribed lies before that position, and counts for nothing.
                stretch.heard.clear()
            self.stream.heard_since.append(time.monotonic())
        return stretch

    def _changes(self, number: int) -> Any:
        def on_change(change: Change) -> None:
            self._messages += 1
            self._keep(change, number, change.position)

        return on_change

    def _transaction(self, transaction: Transaction) -> None:
        self._messages += 1
        tables = [entry.table for entry in self.profile.entries]
        for change in transaction.changes:
            number = tables.index(change.table)
            self._keep(change, number, transaction.position, whole=transaction.last)

    def _message(self, broadcast: Broadcast) -> None:
        number = self.profile.messages
        if number is None or broadcast.position is None or not isinstance(broadcast.payload, dict):
            return  # what comes before the subscription begins
        self._messages += 1
        self._begun().heard.append(
            Heard(
                kind="INSERT",
                table=SAID,
                entries=(number,),
                record=broadcast.payload,
                old={},
                seq=0,
                commit=None,
                message=self._messages,
                position=broadcast.position,
                whole=False,
                at=time.monotonic(),
            )
        )

    def _keep(self, change: Change, number: int, position: str | None, *, whole: bool = True) -> None:
        self._begun().heard.append(
            Heard(
                kind=change.eventType,
                table=change.table,
                entries=(number,),
                record=plain(change.new),
                old=plain(change.old),
                seq=change.seq or 0,
                commit=str(change.commit_timestamp),
                message=self._messages,
                position=position or "",
                whole=whole,
                at=time.monotonic(),
            )
        )

    def _batches(self, number: int) -> Any:
        def on_snapshot(batch: Snapshot) -> None:
            if batch.first or batch.last:
                part = "begins" if batch.first else "is complete"
                self.stream.note(f"the snapshot of {batch.table} {part}, at {batch.position}")
            stretch = self.stream.open
            if stretch.start != batch.position:
                if stretch.heard and stretch.gap is None:
                    self.stream.faults.append("a snapshot where no gap was told")
                if stretch.gap is None:
                    self.stream.stretches.pop()
                stretch = Stretch(batch.position)
                self.stream.stretches.append(stretch)
            elif batch.first:
                stretch.rows[number].clear()
            stretch.rows[number] += [plain(row) for row in batch.rows]

        return on_snapshot

    def _gap(self, gap: Gap) -> None:
        self.stream.note(f"gap {gap.reason} from {gap.from_position} at {gap.position}")
        stretch = self._begun()
        stretch.gap, stretch.ended_at = gap.reason, gap.from_position
        self.stream.stretches.append(Stretch(None if self._copying else gap.position))


class SdkClient:
    """One subject's channels, and ``copies``: the rows of some entries, as the SDK itself keeps them."""

    def __init__(
        self, subject: Subject, channels: Sequence[SdkChannel], copies: Sequence[Entry], relay: Relay
    ) -> None:
        self.subject, self.channels, self.relay = subject, channels, relay
        self.copies: list[tuple[Entry, Rows]] = []
        self.errors: Counter[str] = Counter()
        self._wanted = copies

    async def run(self, lifetime: float) -> None:
        """Stay subscribed until cancelled, with tokens that last so many seconds."""

        def token() -> str:
            claims = {} if self.subject.sub is None else {"sub": self.subject.sub}
            return make_token(self.subject.role, lifetime=int(lifetime), **claims)

        async with Client(
            f"http://127.0.0.1:{self.relay.port}",
            make_token(),
            token=token,
            token_warning=lifetime / 2,
            on_error=self._wrong,
            retry=RetryPolicy(first=0.02, cap=0.3),
            heartbeat_interval=0.5,
            heartbeat_timeout=3.0,
            join_timeout=8.0,
            open_timeout=3.0,
        ) as client:
            for channel in self.channels:
                channel.attach(client)
            for number, entry in enumerate(self._wanted):
                keeping = client.channel(f"rows {number}")
                self.copies.append((entry, keeping.rows(entry.table, filter=entry.filter)))
                keeping.subscribe()
            await asyncio.Event().wait()

    def move(self, ports: Sequence[int], draws: random.Random) -> None:
        """Go on at another server."""
        self.relay.target = ("127.0.0.1", draws.choice(list(ports)))
        self.relay.cut(list(self.relay.links), reset=True)

    def caught_up(self, target: Moment) -> bool:
        """Whether all of it has seen what ``target`` sees."""
        places = [decode(rows._channel.position) for _, rows in self.copies]
        copied = all(place is not None and place.start.covers(target) for place in places)
        return copied and all(channel.caught_up(target) for channel in self.channels)

    def _wrong(self, error: RowcastError) -> None:
        self.errors[type(error).__name__] += 1


def plain(row: Mapping[str, Any]) -> Row:
    """A row as the server wrote it, but for the types of Python."""
    return {name: str(value) if name == "uid" else value for name, value in row.items()}
