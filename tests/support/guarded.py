"""Tables with policies and grants, and what is written to them: any of them, for Hypothesis."""

from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import strategies as st

#: Types, each with values that rows have and policies compare with.
VALUES = {
    "int": ["0", "1", "-7"],
    "text": ["'ada'", "'bob'", "''", "e'q\\'\"\\n\\\\'"],
    "bool": ["true", "false"],
    "numeric(9,3)": ["0", "1.500", "'NaN'"],
    "varchar(4)": ["'ada'", "'a b'"],
    "uuid": ["'11111111-1111-4111-8111-111111111111'", "'22222222-2222-4222-8222-222222222222'"],
    "timestamptz": ["'2020-02-29 12:00:00.123456+05:30'", "'infinity'"],
    "bytea": [r"'\x00ff'", r"'\x'"],
    "jsonb": ["""'{"team": "1", "b": null}'""", "'[1, 2.50]'"],
    "text[]": ["'{ada,NULL,\"b,c\"}'", "'{}'"],
}
NAMES = ["a", "Who?", "t"]
SUBS = ["ada", "bob", "11111111-1111-4111-8111-111111111111", None]
WRITERS = 3
IDS = range(6)
#: As a subscriber writes it, and as SQL has it; the column that both name.
FILTERS = [None, ("id=gt.1", "id > 1", "id"), ("id=in.(0,2)", "id in (0, 2)", "id"),
           ("a=is.null", "a is null", "a"), ("a=not.is.null", "a is not null", "a")]  # fmt: skip


class Write(NamedTuple):
    """Something that one of the writers does; ``sql`` has ``{of}`` where it says which rows are its own."""

    writer: int
    sql: str


@dataclass(frozen=True, slots=True)
class Case:
    """A table ``subject``, who writes to it, and who hears of it."""

    columns: tuple[tuple[str, str], ...]
    full: bool
    policies: tuple[str, ...]
    table: tuple[str, ...]
    writes: tuple[Write, ...]
    hearers: tuple[tuple[int, str | None, int, int], ...]


def quoted(name: str) -> str:
    return f'"{name}"'


@st.composite
def conditions(draw: st.DrawFn, columns: tuple[tuple[str, str], ...], depth: int = 2) -> str:
    """What a policy may say of a row."""
    if depth and draw(st.booleans()):
        one, other = draw(conditions(columns, depth - 1)), draw(conditions(columns, depth - 1))
        return draw(st.sampled_from([f"({one} and {other})", f"({one} or {other})", f"(not {one})"]))
    bare, type_ = draw(st.sampled_from(columns))
    name = quoted(bare)
    value = draw(st.sampled_from(VALUES[type_]))
    return draw(
        st.sampled_from([
            "true", "false", "null::bool", f"{name} is null", f"{name} is not null",
            f"{name} = {value}::{type_}", f"{name} <> {value}::{type_}",
            f"{name}::text = (select auth.jwt() ->> 'sub')", "auth.role() = 'authenticated'",
            "(auth.jwt() -> 'team')::int = id", "id % 2 = 0", "1 / id > 0",
            "exists (select from members as m where m.team = subject.id)",
            f"exists (select from members as m where m.who = subject.{name}::text)",
            "id in (select team from members where who = (select auth.jwt() ->> 'sub'))",
            "team_of(auth.jwt() ->> 'sub') = id", "subject.* is not null",
            "row_to_json(subject.*)::text like '%1%'", "tableoid = 'subject'::regclass",
        ])
    )  # fmt: skip


@st.composite
def writes(draw: st.DrawFn, columns: tuple[tuple[str, str], ...]) -> Write:
    writer = draw(st.integers(0, WRITERS - 1))
    values = {quoted(name): draw(st.sampled_from([*VALUES[type_], "null"])) for name, type_ in columns[1:]}
    id_ = draw(st.sampled_from(IDS)) * WRITERS + writer
    assignments = ", ".join(f"{name} = {value}" for name, value in values.items())
    statement = draw(
        st.sampled_from([
            f"insert into subject values ({', '.join((str(id_), *values.values()))}) on conflict (id)"
            f" do update set {assignments}",
            f"update subject set {assignments} where {{of}}",
            f"update subject set {assignments} where id = {id_}",
            f"update subject set id = id + {WRITERS * len(IDS)} where id = {id_}",
            f"delete from subject where id = {id_}",
            "delete from subject where {of}",
            "commit", "commit", "rollback", "savepoint s", "rollback to s",
        ])
    )  # fmt: skip
    return Write(writer, statement)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=len(NAMES)))
    columns = (("id", "int"), *zip(NAMES, types, strict=False))
    role = st.sampled_from(["<0>", "<1>", "<2>", "authenticated"])
    policy = st.builds(
        "as {} for {} to {} using ({})".format,
        st.sampled_from(["permissive", "permissive", "restrictive"]),
        st.sampled_from(["select", "all", "select", "update"]),
        st.one_of(st.just("public"), role),
        conditions(columns),
    )
    names = ", ".join(
        quoted(name) for name in draw(st.sets(st.sampled_from([name for name, _ in columns]), min_size=1))
    )
    statement = st.one_of(
        st.sampled_from([
            "alter table subject force row level security",
            "alter table subject disable row level security",
            "alter table subject owner to <1>", "alter table subject owner to <2>",
        ]),
        role.map("revoke select on subject from {}".format),
        role.map(f"revoke select on subject from {{0}}; grant select ({names}) on subject to {{0}}".format),
    )  # fmt: skip
    hearer = st.tuples(
        st.integers(0, 4), st.sampled_from(SUBS), st.integers(0, 2), st.integers(0, len(FILTERS) - 1)
    )
    return Case(
        columns,
        draw(st.booleans()),
        tuple(draw(st.lists(policy, max_size=4))),
        tuple(draw(st.lists(statement, max_size=3))),
        tuple(draw(st.lists(writes(columns), min_size=3, max_size=12))),
        tuple(draw(st.lists(hearer, min_size=2, max_size=5, unique=True))),
    )
