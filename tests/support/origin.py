"""A server's side of one channel as the protocol has it, in memory: what a client's core is held against.

It writes transactions, answers joins, replays from a position, takes snapshots, and forgets what it likes.
"""

import itertools
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

TOPIC = "realtime:a"
PART = 2

MESSAGE = -1

Write = tuple[int, int | None]
"""A key, and its new value; None deletes it. A message of the topic where the key is ``MESSAGE``."""


@dataclass
class Origin:
    """``out`` is what was said and has not arrived. Entries of equal parity share a message about a change.

    A position is the number of changes before it, and so is a change's own.
    """

    log: list[Write] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])
    out: deque[str] = field(default_factory=deque)
    trimmed: int = 0
    join: list[Any] | None = None
    table: dict[int, int] = field(default_factory=dict)

    @property
    def _entries(self) -> list[dict[str, Any]]:
        assert self.join is not None
        entries: list[dict[str, Any]] = self.join[4]["config"]["postgres_changes"]
        return entries

    @property
    def copied(self) -> list[int]:
        return [index for index, entry in enumerate(self._entries) if entry.get("snapshot")]

    def joined(self, join: list[Any]) -> None:
        """A join came in."""
        self.join, self.out = join, deque()
        config = join[4]["config"]
        echo = [{**entry, "id": index + 1} for index, entry in enumerate(self._entries)]
        said = {"postgres_changes": echo} | ({"messages": True} if self._messages else {})
        self._say("phx_reply", {"status": "ok", "response": said}, join[1])
        if not echo and not self._messages:
            return
        resume = config.get("resume")
        begin = len(self.log) if resume is None else int(resume["position"])
        lost = begin < self.trimmed
        begin = len(self.log) if lost else begin
        # Found out before, or when what was missed is read. What is told of a later position comes after it.
        late = lost and not len(self.log) % 2
        if lost and not late:
            self._gap(resume["position"], "retention")
        done = {"status": "ok", "extension": "postgres_changes", "message": "Subscribed"}
        self._say("system", {**done, "position": resume["position"] if late else str(begin)})
        if late:
            self._gap(resume["position"], "retention")
        if resume is None or lost:
            self._snapshot()
        self._replay(begin)

    def write(self, writes: list[Write]) -> None:
        """A transaction."""
        for key, value in writes:
            if key == MESSAGE:
                continue
            if value is None:
                self.table.pop(key, None)
            else:
                self.table[key] = value
        begin = len(self.log)
        self.log += writes
        self.ends.append(len(self.log))
        if self.join is not None:
            self._replay(begin)

    def fall_behind(self) -> None:
        """What has not arrived is lost, and the channel goes on from the present. Replies are not lost."""
        if self.join is None or any('"phx_reply"' in frame for frame in self.out):
            return
        self.out.clear()
        self._gap(None, "behind")
        self._snapshot()

    def trim(self) -> None:
        """Nothing before the present can be replayed."""
        self.trimmed = len(self.log)

    def beat(self) -> None:
        """The reply to a heartbeat."""
        copying = any('"snapshot"' in frame for frame in self.out)
        response = {} if self.join is None or copying else {"position": str(len(self.log))}
        self.out.append(
            json.dumps([None, "x", "phoenix", "phx_reply", {"status": "ok", "response": response}])
        )

    def fail(self) -> None:
        """The channel ends, and what has not arrived with it."""
        if self.join is not None:
            self.out.clear()
            self._say("phx_error", {})
            self.join = None

    def cut(self) -> None:
        """The socket is gone."""
        self.join = None
        self.out.clear()

    @property
    def _messages(self) -> bool:
        return bool(self._asked.get("messages"))

    @property
    def _asked(self) -> dict[str, Any]:
        assert self.join is not None
        return self.join[4]["config"].get("rowcast") or {}

    def _replay(self, begin: int) -> None:
        if not self._asked.get("group") or not self._entries:
            for number in range(begin, len(self.log)):
                self._change(number)
            return
        for start, end in itertools.pairwise(self.ends):
            if end > begin:
                changed = [self.log[number][0] != MESSAGE for number in range(start, begin)]
                assert not any(changed), "a channel was given no position between a transaction's changes"
                self._transaction(max(start, begin), end)

    def _message(self, number: int, position: int | None = None) -> None:
        """One that comes again from ``position`` on, which is before it, or not at all."""
        if self._messages:
            again = {} if position is None else {"again": True}
            meta = {
                "id": f"m{number}",
                "position": str(number + 1 if position is None else position),
                **again,
            }
            payload = {"event": "e", "meta": meta, "payload": number, "type": "broadcast"}
            self.out.append(json.dumps([None, None, TOPIC, "broadcast", payload]))

    def _change(self, number: int) -> None:
        if self.log[number][0] == MESSAGE:
            self._message(number)
            return
        ids = list(range(1, len(self._entries) + 1))
        groups = [some for some in (ids[::2], ids[1::2]) if some]
        for some in groups:
            position = str(number + 1 if some is groups[-1] else number)
            data = {**self._data(number, self.log[number]), "position": position}
            self._say("postgres_changes", {"ids": some, "data": data})

    def _transaction(self, start: int, end: int) -> None:
        """What is left of one. A message comes at once, before the changes that are held back."""
        before, held = None, list[int]()
        for number in range(start, end):
            if self.log[number][0] == MESSAGE:
                self._message(number, before)
                continue
            before = number if before is None else before
            if len(held) == PART:
                self._part(held, before, last=False)
                held = []
            held.append(number)
        if held:
            self._part(held, end, last=True)

    def _part(self, numbers: list[int], position: int, *, last: bool) -> None:
        ids = list(range(1, len(self._entries) + 1))
        changes = [{"data": self._data(number, self.log[number]), "ids": ids} for number in numbers]
        self._say("transaction", {"changes": changes, "position": str(position), "last": last})

    @staticmethod
    def _data(number: int, write: Write) -> dict[str, Any]:
        key, value = write
        shown = {"record": {"id": key, "v": value}} if value is not None else {"old_record": {"id": key}}
        kind = "INSERT" if value is not None else "DELETE"
        return {"schema": "public", "table": "t", "type": kind, "seq": number, **shown}

    def _snapshot(self) -> None:
        rows = [{"id": key, "v": value} for key, value in self.table.items()]
        halves = [rows[:1], rows[1:]] if len(rows) > 1 else [rows]
        for index in self.copied:
            for half in halves:
                data = {"schema": "public", "table": "t", "records": half, "key": ["id"]}
                place = {"last": half is halves[-1], "position": str(len(self.log))}
                self._say("snapshot", {"ids": [index + 1], "data": {**data, **place}})

    def _gap(self, asked: str | None, reason: str) -> None:
        gap = {"reason": reason, "from": asked}
        said = {"status": "error", "extension": "postgres_changes", "message": "Changes are missing"}
        self._say("system", {**said, "gap": gap, "position": str(len(self.log))})

    def _say(self, event: str, payload: Any, ref: str | None = None) -> None:
        assert self.join is not None
        self.out.append(json.dumps([self.join[0], ref, TOPIC, event, payload]))
