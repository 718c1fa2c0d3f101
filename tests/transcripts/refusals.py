"""What the original was seen to answer to entries that it did not take, and to some odd ones that it took.

Each is the answer to one entry, alone in its join; None stands for "Subscribed to PostgreSQL".
"""

from collections.abc import Mapping
from typing import Any, Final

from transcripts.frames import DISABLED, FAILED
from transcripts.steps import on

_PARSING: Final = "Error parsing `filter` params:"
_MISSING: Final = (
    "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to:"
)
_RAISED: Final = "ERROR P0001 (raise_exception)"
_MANY: Final = ",".join(map(str, range(1, 103)))


def _filtered(filter_: str) -> dict[str, Any]:
    return on("alltypes", filter=filter_)


def _disabled(schema: str, table: str) -> str:
    return f"{DISABLED} [event: *, schema: {schema}, table: {table}, filters: [], select: nil]"


def _failed(exception: str, filters: str = "[]", select: str = "nil") -> str:
    given = f"[event: *, schema: public, table: alltypes, filters: {filters}, select: {select}]"
    return f"{FAILED} {given}. Exception: {exception}"


ANSWERS: Final[Mapping[str, tuple[dict[str, Any], str | None]]] = {
    "a comma in a value without quotes": (_filtered("txt=eq.x,y"), f'{_PARSING} ["y"]'),
    "a space before the operator": (_filtered("id= eq.1"), f'{_PARSING} [" eq", "1"]'),
    "a column in capitals": (
        _filtered("ID=eq.1"),
        _failed(f"{_RAISED} invalid column for filter ID", '[{"ID", "eq", "1", false}]'),
    ),
    "a column in quotes": (
        _filtered('"id"=eq.1'),
        _failed(f'{_RAISED} invalid column for filter "id"', r'[{"\"id\"", "eq", "1", false}]'),
    ),
    "an operator in capitals": (_filtered("id=EQ.1"), f'{_PARSING} ["EQ", "1"]'),
    "bad filter syntax": (_filtered("id"), f'{_PARSING} ["id"]'),
    "filter undefined": (_filtered("undefined"), f'{_PARSING} ["undefined"]'),
    "unknown operator": (_filtered("id=foo.1"), f'{_PARSING} ["foo", "1"]'),
    "unknown column": (
        _filtered("nocol=eq.1"),
        _failed(f"{_RAISED} invalid column for filter nocol", '[{"nocol", "eq", "1", false}]'),
    ),
    "value of the wrong type": (
        _filtered("id=eq.abc"),
        _failed(
            'ERROR 22P02 (invalid_text_representation) invalid input syntax for type bigint: "abc"',
            '[{"id", "eq", "abc", false}]',
        ),
    ),
    "in without parentheses": (
        _filtered("id=in.1,2"),
        f"{_PARSING} `in` filter value must be wrapped by parentheses",
    ),
    "trailing comma": (
        _filtered("id=eq.1,"),
        f"{_PARSING} filter must not contain empty segments (check for extra commas)",
    ),
    "missing table": (on("no_such_table"), _disabled("public", "no_such_table")),
    "missing schema": (on("alltypes", schema="nope"), _disabled("nope", "alltypes")),
    "table not in the publication": (on("notpub"), _disabled("public", "notpub")),
    "no schema and no table": ({"event": "*"}, f'{_MISSING} %{{"event" => "*"}}'),
    "unknown event name": (on("alltypes", "UPSERT"), None),
    "table only": ({"event": "*", "table": "alltypes"}, None),
    "select as a list": (on("alltypes", select=["id", "txt"]), None),
    "select as a string": (
        on("alltypes", select="id,txt"),
        "Error parsing `select` params: expected a list of column name strings, "
        'e.g. select: ["col1", "col2"]',
    ),
    "select unknown column": (
        on("alltypes", select=["id", "nocol"]),
        _failed(f"{_RAISED} invalid column for select nocol", select='["id", "nocol"]'),
    ),
    "select on a wildcard": (
        on("*", select=["id"]),
        "Column selection is not supported for wildcard subscriptions. "
        "Provide an explicit schema and table name.",
    ),
    "filter on the whole schema": (
        {"event": "*", "schema": "public", "filter": "id=eq.1"},
        f'{_MISSING} %{{"event" => "*", "filter" => "id=eq.1", "schema" => "public"}}',
    ),
    "filter null": (
        on("alltypes", filter=None),
        f'{_MISSING} %{{"event" => "*", "filter" => nil, "schema" => "public", "table" => "alltypes"}}',
    ),
    "regex that does not compile": (
        _filtered("txt=match.("),
        _failed(
            f"{_RAISED} invalid regular expression for match filter: invalid regular expression: "
            "parentheses () not balanced",
            '[{"txt", "match", "(", false}]',
        ),
    ),
    "is with a bad word": (
        _filtered("txt=is.maybe"),
        _failed(
            f"{_RAISED} invalid value for is filter: must be null, true, false, or unknown",
            '[{"txt", "is", "maybe", false}]',
        ),
    ),
    "like on an integer": (
        _filtered("id=like.1%"),
        _failed(
            f"{_RAISED} operator like requires a text-compatible column type, got bigint",
            '[{"id", "like", "1%", false}]',
        ),
    ),
    "in with more than 100 values": (
        _filtered(f"id=in.({_MANY})"),
        _failed(
            f"{_RAISED} too many values for `in` filter. Maximum 100",
            f'[\n  {{"id", "in",\n   "{{{_MANY}}}",\n   false}}\n]',
        ),
    ),
}
