"""Rosters can be merged in any order and as often as one likes, and diffs bring clients to the same state."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rowcast.model.roster import Part, Presence, Roster, difference
from rowcast.protocol.messages import Version
from rowcast.protocol.presence import diff_frame, encode_state, state_frame
from support.synced import Client

NODES = ("a", "b", "c")
KEYS = st.sampled_from(["ann", "bob", "", "__proto__", "ключ"])


@st.composite
def histories(draw: st.DrawFn) -> dict[str, list[Part]]:
    """What each node said, one part after the other."""
    found = {}
    for node in NODES:
        said = [Part()]
        for step in range(draw(st.integers(0, 4))):
            kept = [one for one in said[-1].present.values() if draw(st.booleans())]
            keys = draw(st.lists(KEYS, max_size=3))
            new = [Presence(key, f"{node}{step}{n}", b"{}") for n, key in enumerate(keys)]
            version = said[-1].version + draw(st.integers(1, 2))
            said.append(Part(version, {one.ref: one for one in (*kept, *new)}))
        found[node] = said
    return found


@st.composite
def rosters(draw: st.DrawFn, count: int) -> list[Roster]:
    """What several nodes may have heard by then."""
    said = draw(histories())

    def one() -> Roster:
        parts = {node: draw(st.sampled_from(said[node])) for node in draw(st.sets(st.sampled_from(NODES)))}
        gone = draw(st.sets(st.sampled_from(NODES), max_size=2))
        return Roster(parts).merge(Roster(gone=frozenset(gone)))

    return [one() for _ in range(count)]


@given(rosters(3))
def test_rosters_merge_in_any_order_and_as_often_as_one_likes(heard: list[Roster]) -> None:
    a, b, c = heard
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(b).merge(b) == a.merge(b)
    assert a.merge(Roster()) == a


@given(histories(), st.data())
def test_all_who_have_heard_all_have_what_the_nodes_said_last(
    said: dict[str, list[Part]], data: st.DataObject
) -> None:
    told = data.draw(st.permutations([(node, part) for node in NODES for part in said[node]]))
    roster = Roster()
    for node, part in told:
        roster = roster.change(node, part)
    assert roster.parts == {node: said[node][-1] for node in NODES}
    assert roster.drop("a").change("a", Part(99, {"x": Presence("x", "x", b"{}")})) == roster.drop("a")
    assert roster.drop("a").present() == {**said["b"][-1].present, **said["c"][-1].present}


@given(rosters(4))
def test_diffs_bring_one_roster_to_the_next(heard: list[Roster]) -> None:
    present = dict(heard[0].present())
    for before, after in pairwise(heard):
        diff = difference(before, after)
        present |= {one.ref: one for one in diff.joins}
        for one in diff.leaves:
            del present[one.ref]
        assert present == after.present()
        assert bool(diff) == (before.present() != after.present())


@given(rosters(4))
def test_a_client_that_hears_state_and_diffs_knows_who_is_present(heard: list[Roster]) -> None:
    client = Client()
    client.hear(first(heard[0]))
    for before, after in pairwise(heard):
        client.hear(diff_frame("realtime:x", difference(before, after), Version.V2))
        assert client.refs() == known(after)
    again = Client()
    again.hear(first(heard[-1]))
    assert again.refs() == client.refs()


def first(roster: Roster) -> bytes:
    """What a client is sent with its join."""
    return state_frame("realtime:x", encode_state(roster.present().values()), Version.V2, "1")


def known(roster: Roster) -> dict[str, set[str]]:
    """Refs by key."""
    found: dict[str, set[str]] = {}
    for one in roster.present().values():
        found.setdefault(one.key, set()).add(one.ref)
    return found
