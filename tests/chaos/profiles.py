"""Who subscribes to what: random subscribers that between them ask for everything there is."""

import random
from dataclasses import dataclass
from typing import Final

from chaos.schema import COLUMNS, FILTERS, KEYS, SAID, SUBJECTS, TABLES, Subject
from chaos.streams import Entry, Profile

_FEW = ("uid", "id", "n", "grp")
MESSAGES: Final = Entry(SAID, event="INSERT")


def random_profile(rnd: random.Random, *, tokens: bool = False) -> Profile:
    """A channel. ``tokens`` lets some have tokens that last a few seconds."""
    subject = rnd.choice(SUBJECTS)
    tables = [table for table in TABLES if subject.may_read(table)]
    if rnd.random() < 0.5:
        entries = [_copying(rnd, table) for table in rnd.sample(tables, rnd.randint(1, min(2, len(tables))))]
    else:
        entries = [_following(rnd, rnd.choice(tables)) for _ in range(rnd.randint(1, 3))]
    messages = [MESSAGES] if rnd.random() < 0.3 else []
    return Profile(
        subject,
        (*_distinct(entries), *messages),
        group=rnd.random() < 0.3,
        token=6.0 if tokens and rnd.random() < 0.5 else 3600.0,
    )


def _copying(rnd: random.Random, table: str) -> Entry:
    text, condition = rnd.choice(FILTERS)
    return Entry(
        table,
        filter=text,
        condition=condition,
        columns=_columns(rnd, table),
        snapshot=rnd.choice((7, 50, 500)),
        leave=True,
        truncate=True,
    )


def _following(rnd: random.Random, table: str) -> Entry:
    text, condition = rnd.choice(FILTERS)
    return Entry(
        table,
        event=rnd.choice(("*", "*", "*", "INSERT", "UPDATE", "DELETE")),
        filter=text,
        condition=condition,
        columns=_columns(rnd, table),
        leave=rnd.random() < 0.5,
        truncate=rnd.random() < 0.5,
    )


def _columns(rnd: random.Random, table: str) -> tuple[str, ...]:
    few = _FEW if set(KEYS[table]) <= set(_FEW) else COLUMNS
    return few if rnd.random() < 0.25 else COLUMNS


def _distinct(entries: list[Entry]) -> list[Entry]:
    """Entries with equal parameters have one id: nothing would tell them apart."""
    kept: list[Entry] = []
    for entry in entries:
        if all(_parameters(entry) != _parameters(other) for other in kept):
            kept.append(entry)
    return kept


def _parameters(entry: Entry) -> dict[str, object]:
    return {name: value for name, value in entry.wire().items() if name != "snapshot"}


#: Who must be there whatever the dice say.
FIXED = (
    Profile(
        Subject("service_role"),
        (*(Entry(table, leave=True, truncate=True) for table in TABLES), MESSAGES),
    ),
    Profile(
        Subject("authenticated", "ann"),
        (*(Entry(table, snapshot=50, leave=True, truncate=True) for table in TABLES), MESSAGES),
        group=True,
    ),
    Profile(Subject("anon"), (MESSAGES,)),
)


@dataclass(frozen=True, slots=True)
class SdkWish:
    """What a client of the SDK asks for: channels by their entries, and entries whose rows are kept."""

    subject: Subject
    channels: tuple[tuple[Entry, ...], ...]
    rows: tuple[Entry, ...]
    group: bool = False


SDK: Final = (
    SdkWish(
        Subject("service_role"),
        (
            (
                *(
                    Entry(table, filter="amount=gt.30", condition="amount > 30", leave=True)
                    for table in TABLES
                ),
                MESSAGES,
            ),
            (Entry("parted", snapshot=50, leave=True, truncate=True),),
        ),
        (Entry("plain"), Entry("parted", filter="note=like.a%", condition="note like 'a%'")),
    ),
    SdkWish(
        Subject("authenticated", "bob"),
        (tuple(Entry(table, leave=True, truncate=True) for table in TABLES),),
        (Entry("owned"), Entry("parted", filter="grp=eq.1", condition="grp = 1")),
        group=True,
    ),
)
