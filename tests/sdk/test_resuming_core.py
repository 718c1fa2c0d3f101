"""The core goes on where it was: held against a server in memory that is cut off anywhere."""

import json
from bisect import bisect_right
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rowcast_client._core.asking import How
from rowcast_client._core.connection import Connection
from rowcast_client._core.phases import Timing
from rowcast_client._core.place import Place
from rowcast_client._core.wants import (
    Advance,
    Authorize,
    Batch,
    Deliver,
    Hear,
    Load,
    Miss,
    Notify,
    Open,
    Part,
    Report,
    Send,
    Want,
)
from rowcast_client.change import read_change
from rowcast_client.errors import ConnectionLost, JoinError, StoreError
from rowcast_client.gap import Gap
from rowcast_client.retry import RetryPolicy
from rowcast_client.snapshot import read_snapshot
from support.origin import MESSAGE, TOPIC, Origin

PLAIN = {"event": "*", "schema": "public", "table": "t"}
COPIED = {**PLAIN, "snapshot": True}


class Client:
    """A core with one channel, its clock, and what it was told, in order."""

    def __init__(self, origin: Origin, *bindings: dict[str, Any], how: How = How()) -> None:  # noqa: B008
        self.origin = origin
        self.now = 0.0
        self.core = Connection(Timing(10, 25, 5), RetryPolicy(random=lambda: 1.0))
        self.socket = 0
        self.told: list[Want] = []
        self.joins: list[Any] = []
        self._do(self.core.connect(0))
        self._do(self.core.subscribe(TOPIC, bindings, 0, how))

    def hear(self, frames: int = 1_000_000) -> None:
        """Let so many frames arrive."""
        while frames and self.origin.out:
            frames -= 1
            self._do(self.core.received(self.socket, self.origin.out.popleft(), self.now))

    def say(self, event: str, payload: Any) -> None:
        """The server says this in place of what it was about to."""
        self.origin.out.clear()
        self.origin._say(event, payload)
        self.hear()

    def beat(self, position: str) -> None:
        """The reply to a heartbeat arrives before all else."""
        answer = {"status": "ok", "response": {"position": position}}
        frame = json.dumps([None, "x", "phoenix", "phx_reply", answer])
        self._do(self.core.received(self.socket, frame, self.now))

    def cut(self) -> None:
        self.origin.cut()
        self._do(self.core.lost(self.socket, ConnectionLost("gone"), self.now))

    def wait(self) -> None:
        """Let time pass until the channel is joined, or there is nothing to wait for."""
        for _ in range(4):
            if self.origin.join is None:
                self.tick()

    def tick(self) -> None:
        """Let time pass until something is due."""
        self.now = self.core.deadline or self.now
        self._do(self.core.tick(self.now))

    def of(self, kind: type[Any]) -> list[Any]:
        return [want for want in self.told if isinstance(want, kind)]

    @property
    def resumed(self) -> Any:
        """The position that the last join asked to resume from."""
        return self.joins[-1][4]["config"].get("resume", {}).get("position")

    def _do(self, wants: list[Want]) -> None:
        for want in wants:
            match want:
                case Open(socket):
                    self.socket = socket
                    self._do(self.core.opened(socket, self.now))
                case Authorize(topic, ref):
                    self._do(self.core.authorized(topic, ref, None, self.now))
                case Send(text):
                    frame = json.loads(text)
                    if frame[3] == "phx_join":
                        self.joins.append(frame)
                        self.origin.joined(frame)
                case _:
                    self.told.append(want)


def seqs(told: list[Want], index: int) -> list[int | Miss]:
    """The numbers of the changes that one binding heard of, and the gaps between."""
    heard: list[int | Miss] = []
    for want in told:
        match want:
            case Deliver(_, bindings, data) if index in bindings:
                heard.append(read_change(data).seq or 0)
            case Part(_, changes):
                heard += [read_change(data).seq or 0 for bindings, data in changes if index in bindings]
            case Hear(id=str(id_)):
                heard.append(int(id_.removeprefix("m")))
            case Miss():
                heard.append(want)
    return heard


def fold(told: list[Want], index: int) -> dict[int, int]:
    """The table as a consumer of a snapshot has it."""
    rows: dict[int, int] = {}
    for want in told:
        match want:
            case Batch(_, bindings, data, first) if index in bindings:
                rows = {} if first else rows
                rows |= {row["id"]: row["v"] for row in read_snapshot(data, first).rows}
            case Deliver(_, bindings, data) if index in bindings:
                change = read_change(data)
                rows.pop((change.new or change.old)["id"], None)
                rows |= {change.new["id"]: change.new["v"]} if change.new else {}
    return rows


write = st.tuples(st.integers(0, 3), st.none() | st.integers(0, 9)) | st.just((MESSAGE, 0))
writes = st.lists(write, min_size=1, max_size=5)
steps = st.one_of(
    st.tuples(st.just("write"), writes),
    st.tuples(st.just("write"), writes),
    st.tuples(st.just("hear"), st.integers(1, 3)),
    st.tuples(st.just("hear"), st.integers(1, 12)),
    *(st.tuples(st.just(name), st.none()) for name in ("cut", "fail", "trim", "beat", "behind")),
)
entries = st.sampled_from([(), (PLAIN,), (PLAIN, {**PLAIN, "event": "INSERT"}), (COPIED,), (PLAIN, COPIED)])


def run(origin: Origin, client: Client, script: list[tuple[str, Any]], losing: bool) -> None:
    for step, value in script:
        if step == "write":
            origin.write(value)
        elif step == "hear":
            client.hear(value)
        elif step == "cut":
            client.cut()
        elif step == "fail":
            origin.fail()
            client.hear()
        elif step == "beat":
            origin.beat()
        elif losing:
            origin.trim() if step == "trim" else origin.fall_behind()
        client.wait()
    client.hear()


@given(entries, st.booleans(), st.booleans(), st.lists(steps, max_size=25))
def test_nothing_is_lost_or_heard_twice_without_a_gap(
    bindings: tuple[dict[str, Any], ...], group: bool, messages: bool, script: list[tuple[str, Any]]
) -> None:
    origin = Origin()
    origin.write([(1, 1), (2, 2)])
    client = Client(origin, *bindings, how=How(group=group, messages=messages))
    client.hear(2)
    run(origin, client, script, losing=False)
    copied = bool(bindings) and "snapshot" in bindings[-1]
    for index in range(len(bindings) or 1):
        heard = seqs(client.told, index)
        numbers = [one for one in heard if isinstance(one, int)]
        assert len(numbers) == len(set(numbers))
        # Whole transactions are in order; within one, messages come first.
        ordered = [bisect_right(origin.ends, one) for one in numbers] if group else numbers
        assert ordered == sorted(ordered)
        if not copied:
            wanted = (messages, bool(bindings))
            due = [n for n in range(2, len(origin.log)) if wanted[origin.log[n][0] != MESSAGE]]
            assert sorted(numbers) == due
            assert len(heard) == len(numbers)
    if copied and not group:
        assert fold(client.told, len(bindings) - 1) == origin.table


@given(entries.filter(bool), st.booleans(), st.booleans(), st.lists(steps, max_size=25))
def test_what_is_lost_is_told_where_it_is_missing(
    bindings: tuple[dict[str, Any], ...], group: bool, messages: bool, script: list[tuple[str, Any]]
) -> None:
    origin = Origin()
    origin.write([(1, 1), (2, 2)])
    client = Client(origin, *bindings, how=How(group=group, messages=messages))
    client.hear(2)
    run(origin, client, script, losing=True)
    origin.write([(0, 0)])  # so that what is missing at the end shows, too
    client.hear()
    for index, binding in enumerate(bindings):
        due = [n for n in range(2, len(origin.log)) if messages or origin.log[n][0] != MESSAGE]
        for one in seqs(client.told, index) if "snapshot" not in binding else []:
            if isinstance(one, int):
                # Within a whole transaction messages come before changes.
                assert one in due if group else one == due[0]
                due.remove(one)
            else:
                due = [n for n in due if n >= int(one.gap.position or 0)]
        assert "snapshot" in binding or not due
        if "snapshot" in binding and not group:
            assert fold(client.told, index) == origin.table


def test_a_transaction_that_was_cut_off_comes_again_and_is_heard_once() -> None:
    origin = Origin()
    client = Client(origin, PLAIN, how=How(group=True))
    client.hear()
    origin.write([(key, 1) for key in range(5)])
    client.hear(1)
    client.beat("3")
    client.cut()
    client.wait()
    assert client.resumed == "0"
    client.hear()
    assert seqs(client.told, 0) == [0, 1, 2, 3, 4]
    assert [(part.position, part.last) for part in client.of(Part)][-1] == ("5", True)
    client.cut()
    client.wait()
    assert client.resumed == "5"


def test_what_one_change_means_to_two_bindings_may_come_in_two_parts_of_its_transaction() -> None:
    place = Place()
    place.reset("6")
    assert place.part([(7, (0,)), (8, (0,))], False) == [True, True]
    # The row of 8 left for one binding, and changed for another.
    assert place.part([(8, (1,)), (9, (0, 1))], False) == [True, True]
    place.join((), 2)
    assert place.part([(7, (0,)), (8, (0,)), (8, (1,)), (9, (0, 1)), (10, (0,))], True) == [
        *[False] * 4, True,
    ]  # fmt: skip


def test_the_reply_to_a_heartbeat_moves_a_quiet_channel_on() -> None:
    origin = Origin()
    client = Client(origin, PLAIN)
    origin.beat()
    client.hear(1)
    assert client.of(Advance) == []  # not confirmed yet
    client.hear()
    origin.log.append((1, 1))  # nothing for this channel
    for _ in range(2):
        origin.beat()
        client.hear()
    assert client.of(Advance) == [Advance(TOPIC, "1")]
    client.cut()
    client.wait()
    assert client.resumed == "1"


def test_a_snapshot_that_was_cut_off_is_taken_anew_and_says_so() -> None:
    origin = Origin()
    origin.write([(1, 1), (2, 2)])
    client = Client(origin, COPIED)
    client.hear(3)
    client.beat("9")
    assert client.of(Advance) == []
    assert [(notify.status, notify.position) for notify in client.of(Notify)] == [("SUBSCRIBED", None)]
    client.cut()
    client.wait()
    assert client.resumed is None
    client.hear()
    batches = [(batch.first, batch.position) for batch in client.of(Batch)]
    assert batches == [(True, None), (True, None), (False, "2")]
    client.cut()
    client.wait()
    assert client.resumed == "2"
    client.hear()
    assert len(client.of(Batch)) == 3


def test_a_gap_takes_a_new_snapshot_and_what_has_none_is_told_of_a_cut_in_it() -> None:
    origin = Origin()
    origin.write([(1, 1), (2, 2)])
    client = Client(origin, PLAIN, COPIED)
    client.hear()
    origin.write([(3, 3)])
    client.hear()
    client.cut()
    origin.write([(4, 4)])
    origin.trim()
    client.wait()
    client.hear(3)
    (miss,) = client.of(Miss)
    assert miss.gap == Gap("retention", "3", "4", "Changes are missing")
    assert miss.position is None  # from there on the rows would be missing
    client.cut()
    client.wait()
    assert client.resumed is None
    client.hear()
    left = client.of(Miss)[1].gap
    assert (left.reason, left.from_position, left.position) == ("snapshot", "4", "4")
    assert client.of(Miss)[1].position is None
    assert fold(client.told, 1) == origin.table


def test_a_channel_without_positions_joins_as_ever() -> None:
    origin = Origin()
    client = Client(origin, PLAIN)
    client.hear(1)
    client.say("system", {"status": "ok", "extension": "postgres_changes", "message": "Subscribed"})
    data = {"schema": "public", "table": "t", "type": "INSERT", "record": {"id": 1}}
    for _ in range(2):
        client.say("postgres_changes", {"ids": [1], "data": data})
    assert len(client.of(Deliver)) == 2
    client.cut()
    client.wait()
    assert "resume" not in client.joins[-1][4]["config"]


def test_leaving_forgets_the_position() -> None:
    origin = Origin()
    client = Client(origin, PLAIN)
    client.hear()
    client._do(client.core.leave(TOPIC, 0))
    client._do(client.core.subscribe(TOPIC, (PLAIN,), 0))
    origin.cut()
    client._do(client.core.lost(client.socket, ConnectionLost("gone"), 0))
    client.wait()
    assert client.resumed is None


def test_a_position_that_is_stored_is_asked_for_once_and_again_while_it_cannot_be_had() -> None:
    origin = Origin()
    origin.write([(1, 1), (2, 2)])
    client = Client(origin, PLAIN, how=How(stored=True))
    (load,) = client.of(Load)
    error = StoreError("no")
    client._do(client.core.unloaded(TOPIC, load.join_ref, error, 0))
    assert [want.error for want in client.of(Report)] == [error]
    assert client.core.loaded(TOPIC, load.join_ref, "0", 0) == []
    client.tick()
    late = client.of(Load)[1]
    client.tick()
    assert client.of(Notify)[-1].status == "TIMED_OUT"
    client.tick()
    assert client.core.loaded(TOPIC, late.join_ref, "0", client.now) == []
    client._do(client.core.loaded(TOPIC, client.of(Load)[-1].join_ref, "1", client.now))
    client.hear()
    assert seqs(client.told, 0) == [1]
    client.cut()
    client.wait()
    assert (client.resumed, len(client.of(Load))) == ("2", 3)


def test_a_snapshot_that_is_refused_is_tried_again_if_nothing_else_is_left() -> None:
    refused = {
        "status": "error",
        "extension": "postgres_changes",
        "message": "Unable to take a snapshot of public.t: it took too long",
    }
    client = Client(Origin(), COPIED)
    client.hear(2)
    client.say("system", refused)
    assert client.of(Notify)[-1].status == "CHANNEL_ERROR"
    client.origin.join = None
    client.wait()
    assert len(client.joins) == 2
    assert client.resumed is None
    client = Client(Origin(), PLAIN, COPIED)
    client.hear(2)
    client.say("system", refused)
    error = client.of(Notify)[-1].error
    assert isinstance(error, JoinError)
    assert "took too long" in error.message
    client.wait()
    assert len(client.joins) == 1


def test_a_gap_is_no_refusal_and_may_come_before_the_confirmation() -> None:
    origin = Origin()
    origin.write([(1, 1)])
    origin.trim()
    client = Client(origin, PLAIN, how=How(resume="0"))
    assert client.resumed == "0"
    client.hear()
    assert [type(want) for want in client.told if not hasattr(want, "payload")] == [Miss, Notify]
    assert client.of(Notify)[0].position == client.of(Miss)[0].position == "1"
