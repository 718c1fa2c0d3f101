"""Values of a row as the wire has them: what ``row_to_json`` wrote, made into what ``to_jsonb`` would have.

Keys stand in jsonb's order and ``json`` is normalised; bytea is hex without ``\\x``; NaN and infinities are
null; no number has an exponent. All else agrees already, and stays the bytes that Postgres wrote. What has to
be done is found once for each relation; a row of which nothing has to be done is not even parsed.

Nothing here fails for what a row holds: a value that cannot be read stays as it is. Postgres lets such pass,
nested too deep for parsers or, in ``json``, with one half of a surrogate pair.
"""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec

from rowcast.model.change import Relation
from rowcast.model.shape import ArrayShape, RowShape, Shape

#: JSON text to JSON text.
Rewrite = Callable[[bytes], bytes]

#: Enough for every float8. Beyond it, numbers of ``json`` stay as they are: a few bytes could ask for much.
LARGEST_EXPONENT: Final = 400
_encode: Final = msgspec.json.Encoder().encode
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]', re.DOTALL)
_NUMERALS: Final = frozenset(b"-0123456789")
_UNREADABLE: Final = (ValueError, RecursionError)


def rewrite_of(relation: Relation, names: Collection[str]) -> Rewrite | None:
    """What makes a row's image the object of the wire that shows the columns ``names``.

    None where the image is that object as it stands.
    """
    kept = [(column.name, _rewrite(column.shape)) for column in relation.columns if column.name in names]
    if not relation.omitted and len(kept) == len(relation.columns) and _stands(kept):
        return None
    return _RowRewrite.of(kept, closed=True)


def split(image: bytes) -> Mapping[str, bytes]:
    """The values of a JSON object by their names, unparsed. ValueError where it is none."""
    try:
        return _fields.decode(image)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError):
        return _split_unread(image)


def plain(number: str) -> str:
    """A JSON number as Postgres' numeric writes it: without exponent, and zero without a sign."""
    mantissa, _, exponent = number.lower().partition("e")
    if exponent:
        power = exponent.lstrip("+-0")
        if len(power) > 3 or int(power or 0) > LARGEST_EXPONENT:
            return number
        mantissa = format(Decimal(number), "f")
    return mantissa if mantissa.strip("-0.") else mantissa.lstrip("-")


def jsonb_order(name: str) -> tuple[int, bytes]:
    """jsonb's: shorter names first, then by their bytes."""
    text = name.encode("utf-8", "surrogatepass")
    return len(text), text


def _quoted(name: str) -> bytes:
    """A name as JSON; half of a surrogate pair, which UTF-8 cannot hold, as an escape."""
    try:
        return _encode(name)
    except UnicodeEncodeError:
        return json.dumps(name).encode()


def _stands(fields: list[tuple[str, Rewrite | None]]) -> bool:
    """Whether an object of these fields needs nothing."""
    names = [name for name, _ in fields]
    return all(rewrite is None for _, rewrite in fields) and names == sorted(names, key=jsonb_order)


def _rewrite(shape: Shape | None) -> Rewrite | None:
    match shape:
        case "bytea":
            return _hex
        case "numeric":
            return _finite
        case "float4" | "float8":
            return _float
        case "json" | "any":  # ANY
            return _normalised
        case ArrayShape():
            # Lists in lists are dimensions, or elements that are arrays: what is no list is a leaf.
            while isinstance(shape, ArrayShape):
                shape = shape.of
            leaf = _rewrite(shape)
            # Of json, a list may be a leaf: all of it is normalised.
            return leaf if leaf is None or leaf is _normalised else _ArrayRewrite(leaf)
        case RowShape(fields):
            parts = [(name, _rewrite(part)) for name, part in fields]
            return None if _stands(parts) else _RowRewrite.of(parts, closed=False)
        case _:
            return None


def _hex(text: bytes) -> bytes:
    return b'"' + text[4:] if text.startswith(b'"\\\\x') else text


def _finite(text: bytes) -> bytes:
    # NaN and the infinities are strings.
    return b"null" if text.startswith(b'"') else text


def _float(text: bytes) -> bytes:
    if text.startswith(b'"'):
        return b"null"
    # A field of a composite may have been replaced by one of another type: `true` has an e, too.
    exponent = b"e" in text and text[0] in _NUMERALS
    return plain(text.decode()).encode() if exponent or text == b"-0" else text


def _number(text: str) -> msgspec.Raw:
    return msgspec.Raw(plain(text))


def _ordered(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    last = dict(pairs)
    return {name: last[name] for name in sorted(last, key=jsonb_order)}


# msgspec has no hook for whole numbers, and those may have more digits than Python reads.
_jsonb: Final = json.JSONDecoder(object_pairs_hook=_ordered, parse_float=_number, parse_int=_number)


def _normalised(text: bytes) -> bytes:
    return text if text == b"null" else _encode(_jsonb.decode(text.decode()))


@dataclass(frozen=True, slots=True)
class _ArrayRewrite:
    leaf: Rewrite

    def __call__(self, text: bytes) -> bytes:
        if text == b"null":
            return text
        elements = map(bytes, _elements.decode(text))
        rewritten = [self(each) if each.startswith(b"[") else self.leaf(each) for each in elements]
        return b"[" + b",".join(rewritten) + b"]"


@dataclass(frozen=True, slots=True)
class _RowRewrite:
    """Rewrites an object. Of fields that it does not know, a ``closed`` one shows none, another all.

    A composite may have got fields since its relation was described: only DDL on a table is followed at once.
    """

    # In jsonb's order, each with what stands before its value.
    fields: tuple[tuple[str, bytes, Rewrite | None], ...]
    closed: bool

    @classmethod
    def of(cls, fields: list[tuple[str, Rewrite | None]], *, closed: bool) -> "_RowRewrite":
        ordered = sorted(fields, key=lambda field: jsonb_order(field[0]))
        leads = [(b"," if n else b"{") + _encode(name) + b":" for n, (name, _) in enumerate(ordered)]
        return cls(
            tuple((name, lead, rewrite) for (name, rewrite), lead in zip(ordered, leads, strict=True)), closed
        )

    def __call__(self, text: bytes) -> bytes:
        if text == b"null":
            return text
        values = split(text)
        parts: list[bytes] = []
        try:
            for name, lead, rewrite in self.fields:
                parts += (lead, values[name] if rewrite is None else rewrite(bytes(values[name])))
        except (KeyError, *_UNREADABLE):
            return self._carefully(values)
        if not parts or (len(values) > len(self.fields) and not self.closed):
            return self._carefully(values)
        parts.append(b"}")
        return b"".join(parts)

    def _carefully(self, values: Mapping[str, bytes]) -> bytes:
        """The same where fields are missing or unknown, or a value cannot be read."""
        known = {name: rewrite for name, _, rewrite in self.fields}
        names = [name for name in values if name in known or not self.closed]
        parts = []
        for name in sorted(names, key=jsonb_order):
            value, rewrite = bytes(values[name]), known.get(name)
            if rewrite is not None:
                with contextlib.suppress(*_UNREADABLE):
                    value = rewrite(value)
            parts.append(_quoted(name) + b":" + value)
        return b"{" + b",".join(parts) + b"}"


def _split_unread(image: bytes) -> dict[str, bytes]:
    """What ``split`` gives, without looking into the values."""
    if not image.lstrip().startswith(b"{"):
        raise ValueError("not an object")
    values: dict[str, bytes] = {}
    name, depth, start = "", 0, 0
    for token in _TOKEN.finditer(image):
        match token[0]:
            case b"{" | b"[":
                depth += 1
            case b":" if depth == 1:
                name = json.loads(image[start : token.start()])
            case b"," if depth == 1:
                values[name] = image[start : token.start()].strip()
            case b"}" | b"]":
                depth -= 1
                if depth == 0 and (last := image[start : token.start()].strip()):
                    values[name] = last
                continue
            case _:
                continue
        if depth == 1:
            start = token.end()
    return values
