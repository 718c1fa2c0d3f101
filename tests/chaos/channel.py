"""One channel as a raw client keeps it: what it was told, and from where it would go on.

It follows the rules that docs/protocol.md gives to clients and no others. This module performs no I/O.
"""

import time
from collections.abc import Mapping
from typing import Any

from chaos.schema import SAID, WHOLE
from chaos.streams import Heard, Profile, Stream, Stretch, decode
from rowcast.model.position import Snapshot

Key = tuple[int, tuple[int, ...], str]


class Channel:
    """``position`` is None until there is one to resume from. ``joined`` is True from "Subscribed" on."""

    def __init__(self, name: str, profile: Profile) -> None:
        self.name, self.topic, self.profile = name, f"realtime:{profile.topic or name}", profile
        self.stream = Stream(name, profile)
        self.position: str | None = None
        self.join_ref = ""
        self.answered = self.joined = False
        self.trouble = ""
        self.again = 0
        self._ids: dict[int, int] = {}
        self._asked: str | None = None
        self._snapshot: set[int] = set()
        self._messages = 0
        # What was heard under the present position: it may come again, if that is before its change.
        self._tail: set[Key] = set()
        self._expect_again: set[Key] = set()
        # Messages that said that they come again.
        self._repeating: set[str] = set()

    @property
    def snapshotting(self) -> bool:
        """Whether rows of a snapshot are still to come."""
        return bool(self._snapshot)

    def join(self, ref: str, token: str) -> dict[str, Any]:
        """The payload of a join that goes on from where this channel is."""
        self.join_ref, self.answered, self.joined = ref, False, False
        self._asked = self.position
        self.stream.note(f"joins, from {self._asked}")
        wanted: dict[str, Any] = {"gap": True}
        if self.profile.group:
            wanted["group"] = "transaction"
        config: dict[str, Any] = {"postgres_changes": self.profile.wire(), "rowcast": wanted}
        if self.profile.messages is not None:
            wanted["messages"] = config["private"] = True
        if self._asked is not None:
            config["resume"] = {"position": self._asked}
            self._expect_again = set(self._tail)
        else:
            self._begin(None)
        return {"config": config, "access_token": token}

    def lost(self) -> None:
        """The socket is gone, or the server ended the channel."""
        if self.join_ref:
            self.stream.note(f"has no channel any more {self.trouble}")
        self.join_ref, self.answered = "", False
        self._leave_off()

    def _leave_off(self) -> None:
        if self.joined:
            self.joined = False
            self.stream.heard_until.append(time.monotonic())
        elif self.stream.open.start is None:
            # Never told where the subscription began: what came of it counts for nothing.
            self.position = None
            self.stream.stretches.pop()
        if self._snapshot:
            # Half a snapshot is none: there is no position yet, and so it comes anew.
            self.position = None
            self._snapshot = set()

    # What the server says

    def replied(self, status: str, response: Mapping[str, Any]) -> None:
        """The answer to the join."""
        if status != "ok":
            self.trouble = f"join refused: {response.get('reason')}"
            self.lost()
            return
        self.answered = True
        if (self.profile.messages is not None) is not response.get("messages", False):
            self._fault("the answer does not say whether it hears messages")
        numbers = [binding["id"] for binding in response.get("postgres_changes", [])]
        self._ids = {number: index for index, number in enumerate(numbers)}

    def told(self, payload: Mapping[str, Any]) -> None:
        """A ``system`` message."""
        if payload.get("extension") != "postgres_changes":
            return
        self.stream.note(f"{payload.get('message')} {payload.get('gap', '')} at {payload.get('position')}")
        if "gap" in payload:
            self._gap(payload["gap"], payload.get("position"))
        elif payload.get("status") != "ok":
            self.trouble = str(payload.get("message"))
            self.lost()
        elif not self.joined and self.answered:
            self._subscribed(payload.get("position"))

    def _subscribed(self, position: str | None) -> None:
        self.joined = True
        self.stream.heard_since.append(time.monotonic())
        if position is None:
            self._fault("subscribed without a position")
        elif self._asked is not None:
            stretch = self.stream.open
            stretch.resumes += 1
            stretch.resumed_at = len(stretch.heard) if stretch.resumed_at is None else stretch.resumed_at
            if position != self._asked:
                self._fault("resumed from another position than it asked for")
        elif self.stream.open.heard and self.stream.open.start is None:
            # Changes may come as soon as the join was answered.
            self.stream.open.start = position
        else:
            self._begin(position)

    def _begin(self, position: str | None) -> None:
        """A stretch begins here; with snapshots it does at theirs, which is not known yet."""
        stretches = self.stream.stretches
        if stretches and not stretches[-1].heard and stretches[-1].gap is None:
            stretches.pop()
        self._tail, self._expect_again, self._repeating = set(), set(), set()
        self._snapshot = {n for n, entry in enumerate(self.profile.entries) if entry.snapshot is not None}
        self.position = None if self._snapshot else position
        stretches.append(Stretch(self.position))

    def _gap(self, gap: Mapping[str, Any], position: str | None) -> None:
        stretch = self.stream.open
        if self.position is not None:
            stretch.gap, stretch.ended_at = str(gap.get("reason")), self.position
        if not self.joined:
            self.joined = True
            self.stream.heard_since.append(time.monotonic())
        self._asked = None
        self._begin(position)

    def snapshot(self, payload: Mapping[str, Any]) -> None:
        """Rows of a snapshot."""
        data = payload["data"]
        entries = [self._ids[number] for number in payload["ids"] if number in self._ids]
        stretch = self.stream.open
        if data["last"]:
            self.stream.note(f"the snapshot of {data['table']} is complete, at {data['position']}")
        if not self._snapshot.issuperset(entries):
            self._fault(f"rows of a snapshot of {data['table']} that nobody awaits")
        if stretch.start is None:
            stretch.start = data["position"]
        elif stretch.start != data["position"]:
            self._fault("snapshots of one channel are of two moments")
        for entry in entries:
            stretch.rows[entry] += data["records"]
        if data["last"]:
            self._snapshot -= set(entries)
            if not self._snapshot:
                self.position = data["position"]

    def changes(self, event: str, payload: Mapping[str, Any]) -> None:
        """A change, or a transaction's."""
        self._messages += 1
        grouped = event == "transaction"
        if grouped != self.profile.group:
            self._fault(f"a message {event}, which it did not ask for")
        if not self.answered or self._snapshot:
            awaits = f"snapshots {sorted(self._snapshot)}" if self.answered else "an answer"
            self._fault(f"a change while it awaits {awaits}, after {len(self.stream.open.heard)} others")
        if self._asked is not None and not self.joined:
            self._fault("a change before it was told that it resumes")
        position = payload["position"] if grouped else payload["data"]["position"]
        if payload.get("last", True):
            self._repeating = set()
        if position != self.position:
            self.position, self._tail = position, set()
        for change in payload["changes"] if grouped else [payload]:
            ids = tuple(change["ids"])
            key = (change["data"]["seq"], ids, change["data"]["type"])
            self._tail.add(key)
            if key in self._expect_again:
                self._expect_again.discard(key)
                self.again += 1
                continue
            self._keep(change["data"], ids, position, whole=payload.get("last", True))

    def message(self, payload: Mapping[str, Any]) -> None:
        """A broadcast."""
        self._messages += 1
        meta, entry = payload.get("meta", {}), self.profile.messages
        if (position := meta.get("position")) is None:
            # Until it was told where its subscription begins, it hears what everybody does.
            if self.joined:
                self._fault("a message without a position")
            return
        if entry is None:
            self._fault("a message, which it did not ask for")
            return
        if not self.answered or self._snapshot:
            self._fault("a message while it awaits an answer, or a snapshot")
        if position != self.position:
            self.position, self._tail = position, set()
        if meta["id"] in self._repeating:
            self.again += 1
        else:
            self.stream.open.heard.append(
                Heard(
                    kind="INSERT",
                    table=SAID,
                    entries=(entry,),
                    record=payload["payload"],
                    old={},
                    seq=0,
                    commit=None,
                    message=self._messages,
                    position=position,
                    whole=False,
                    at=time.monotonic(),
                )
            )
        self._repeating = self._repeating | {meta["id"]} if meta.get("again") else set()

    def _keep(self, data: Mapping[str, Any], ids: tuple[int, ...], position: str, *, whole: bool) -> None:
        kind, table = data["type"], data["table"]
        entries = tuple(self._ids[number] for number in ids if number in self._ids)
        if len(entries) != len(ids):
            self._fault(f"{kind} of {table} for bindings that it has not")
        for entry in entries:
            if kind not in self.profile.entries[entry].kinds:
                self._fault(f"{kind} of {table}, which it did not ask for")
        old = data.get("old_record") or {}
        if kind == "LEAVE" and table in WHOLE and "n" not in old:
            self._fault("a LEAVE without its old row")
        self.stream.open.heard.append(
            Heard(
                kind=kind,
                table=table,
                entries=entries,
                record=data.get("record") or {},
                old=old,
                seq=data["seq"],
                commit=data["commit_timestamp"],
                message=self._messages,
                position=position,
                whole=whole,
                at=time.monotonic(),
            )
        )

    def beat(self, position: str, *, adopt: bool) -> None:
        """A heartbeat's position. ``adopt`` takes it to resume from, where it is further on than ours."""
        if not self.joined or self._snapshot:
            return
        self.stream.open.beats.append((self._messages, position))
        if adopt and self.reaches(position, self._end()):
            self.position, self._tail = position, set()

    def _end(self) -> Snapshot | None:
        mine = decode(self.position)
        return None if mine is None else mine.end or mine.start

    def reaches(self, position: str | None, target: Snapshot | None) -> bool:
        """Whether all that ``target`` sees lies before the position."""
        found = decode(position)
        return found is not None and target is not None and found.start.covers(target)

    def caught_up(self, target: Snapshot) -> bool:
        """Whether it was told that everything which ``target`` sees has been sent."""
        if not self.joined or self._snapshot:
            return False
        beats = self.stream.open.beats
        return self.reaches(beats[-1][1] if beats else None, target) or self.reaches(self.position, target)

    def _fault(self, what: str) -> None:
        self.stream.faults.append(what)
