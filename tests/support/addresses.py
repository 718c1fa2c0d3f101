"""Addresses of databases with passwords that are hard to keep out of a text."""

from urllib.parse import quote

from hypothesis import strategies as st

#: What ends a part of an address, begins a code, or is of another script, between parts that are found again.
_SPARKS = (
    "/",
    "#",
    "?",
    "@",
    ":",
    "%",
    "[",
    "]",
    "&",
    "=",
    "+",
    " ",
    "\\",
    "'",
    '"',
    "%2F",
    "//[",
    "ß",
    "\t",
)
#: A piece that stands in nothing else: if it is in a text, so is the password.
NEEDLE = "Zq9xNeedle"


@st.composite
def passwords(draw: st.DrawFn) -> str:
    """A password that has the needle on both sides of what may tear it apart."""
    middle = "".join(draw(st.lists(st.sampled_from(_SPARKS), max_size=4)))
    return f"{NEEDLE}{middle}{NEEDLE}"


@st.composite
def addresses(
    draw: st.DrawFn, host: str = "127.0.0.1:1", database: str = "app", *, good: bool = False
) -> str:
    """An address with such a password in it, in its usual place or as a parameter: escaped or not, and with
    other faults, unless it is to be ``good``."""
    password = draw(passwords())
    written = quote(password, safe="") if good or draw(st.booleans()) else password
    user = draw(st.sampled_from(("me", "", "a%40b")))
    scheme, query = "postgresql", ""
    if not good:
        scheme = draw(st.sampled_from(("postgresql", "postgres", "mysql", "", "POSTGRESQL")))
        query = draw(st.sampled_from(("", "?sslmode=disable", "?sslmode=verify", "?a", "?b=%zz")))
    if draw(st.booleans()):
        return f"{scheme}://{user}:{written}@{host}/{database}{query}"
    return f"{scheme}://{user}@{host}/{database}?password={written}"
