"""Where this server means to differ from what was seen of the original: the one table of it.

Each stands in docs/compatibility.md under its name.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Difference:
    """A deliberate difference: what it is called, why it is, and the conversations and tests it shows in."""

    name: str
    reason: str
    where: tuple[str, ...]


ENTRIES: Final = Difference(
    "Each entry stands by itself",
    "An entry that cannot be subscribed is refused by a message of its own and the others of its join are "
    "heard, where there one bad entry silences the good ones.",
    ("one good and one bad subscription in the same join",),
)
DELETES: Final = Difference(
    "Filters on DELETE see the whole old row",
    "A filter on any column decides about a DELETE as it does about an UPDATE, where there it sees only the "
    "columns of the replica identity, so that most DELETEs are lost to whoever filters.",
    ("test_a_filter_delivers_what_was_seen", "test_case_80_an_operator_decides_on_insert_update_and_delete"),
)
KEYS: Final = Difference(
    "Tables without a primary key",
    "Their changes are delivered like any other, where there each comes as error 400 without its row.",
    ("columns added and dropped", "test_case_89_a_table_without_primary_key_is_delivered"),
)
TOAST: Final = Difference(
    "Unchanged TOAST values",
    "`record` has every column whatever the UPDATE left alone, where there a large value that did not change "
    "is missing unless the replica identity is full.",
    (
        "unchanged TOAST value and a record over 1 MiB",
        "test_case_90_an_unchanged_toast_value_is_in_the_record",
    ),
)
ARRAYS: Final = Difference(
    "Filters on array columns",
    "They work, and no filter can keep a change from other subscribers, where there the first change with a "
    "value in such a column loses its whole batch for everyone.",
    ("a filter on an array column",),
)
PRIVILEGES: Final = Difference(
    "A table that the role may not read",
    "The entry is refused by a message that names the GRANT to run, where there the subscription is "
    "confirmed and each change comes as error 401 without its row.",
    ("privileges", "test_case_89_a_role_without_the_privilege_is_refused_with_the_grant"),
)
KEY_PRIVILEGES: Final = Difference(
    "A primary key that the role may not read",
    "The columns that it may read are sent, where there each change comes as error 401 without its row.",
    ("test_case_89_a_role_that_may_not_read_the_key_is_sent_the_rest",),
)
OTHERS_DELETES: Final = Difference(
    "DELETE under row level security",
    "It goes to those who could see the row, with the columns of the replica identity, where there everybody "
    "who may read the table is sent its primary key.",
    ("row level security", "test_case_88_a_delete_is_sent_to_those_who_could_see_the_row"),
)
PUBLICATION: Final = Difference(
    "Changes of the publication",
    "A table that leaves the publication or joins it does so at once for its subscribers, who are told by "
    "`system` messages, where there it takes up to a minute and nothing is said.",
    (
        "the publication altered while subscribed",
        "test_case_93_a_table_that_leaves_the_publication_and_returns_is_told_at_once",
        "test_case_93_a_new_table_is_heard_by_who_subscribed_to_everything",
    ),
)
ROLES: Final = Difference(
    "Roles that a token may name",
    "Only roles on the server's list are assumed, and another is refused by a message that names the "
    "setting, where there any role of the database is tried.",
    ("a role that does not exist",),
)
CONNECTION: Final = Difference(
    "A lost connection to the database",
    "The reader comes back to its place and nothing is lost, where there the changes of that second never "
    "come and nobody is told.",
    ("the connection of the reader killed",),
)
POSITIONS: Final = Difference(
    "Sequence numbers and positions",
    'A change carries `seq` and `position`, "Subscribed to PostgreSQL" and the answer to a heartbeat carry '
    "`position`: from them a client knows repeats, and from where to go on.",
    ("every column type", "the publication altered while subscribed"),
)
PATTERNS: Final = Difference(
    "`%` and `_` in names",
    "The name of a schema or table is meant literally, where there it is a pattern of LIKE, which hears "
    "tables that nobody named.",
    ("test_case_91_percent_and_underscore_in_a_name_are_no_pattern",),
)
JOINS: Final = Difference(
    "A second join of a topic under 1.0.0",
    "Nothing but its reply is sent, where there a `phx_close` for the first join follows, which clients of "
    "1.0.0 take for the end of the second.",
    ("test_a_second_join_under_1_0_0_closes_nothing",),
)
DENIALS: Final = Difference(
    "A broadcast that may not be sent",
    "With `ack` it is answered by an error that says so, where there nothing comes and a client waits until "
    "its time is over.",
    ("test_case_47_policies_decide_who_writes_where", "test_silence_may_be_had_as_with_supabase"),
)
TOO_LARGE: Final = Difference(
    "The answer to a broadcast that is too large",
    "Its `response` is an object, where there it is a bare text, which the official Python client takes for "
    "no message.",
    ("test_a_payload_over_the_limit_is_dropped_and_the_channel_lives",),
)
TOO_MANY: Final = Difference(
    "Too many broadcasts",
    "They end the channel of the socket that sends them, where there those who listen lose theirs and the "
    "sender goes on.",
    ("test_who_sends_too_much_loses_its_channel_and_who_listens_never_does",),
)
BODIES: Final = Difference(
    "A request whose body is no JSON, or too large",
    "It is answered by a JSON object that says so, where there it is answered by two words of text.",
    ("test_a_body_of_another_kind_is_refused", "test_a_body_over_its_limit_is_not_read"),
)

DIFFERENCES: Final = (
    ENTRIES, DELETES, KEYS, TOAST, ARRAYS, PRIVILEGES, KEY_PRIVILEGES, OTHERS_DELETES, PUBLICATION,
    ROLES, CONNECTION, POSITIONS, PATTERNS, JOINS, DENIALS,
    TOO_LARGE, TOO_MANY, BODIES,
)  # fmt: skip
