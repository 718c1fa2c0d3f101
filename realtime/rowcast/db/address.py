"""Addresses of databases, ``postgresql://user:password@host:port/database?parameter=value``: checked part by
part before anything connects, and never shown with what is secret in them. No I/O.
"""

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

SCHEMES: Final = ("postgres", "postgresql")
HIDDEN: Final = "********"
_SHAPE: Final = "must be an address such as postgresql://user:password@host:5432/database"
_ESCAPES: Final = "In a password, write % as %25, / as %2F, # as %23, ? as %3F, @ as %40, : as %3A, [ as %5B"
# One host or several, each perhaps with a port; asyncpg takes both.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\],@\s]*)(?::([0-9]+))?")
_BROKEN_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_MAX_PORT: Final = 65535
_WRONG_PORT: Final = f"has a wrong port: it is a number from 1 to {_MAX_PORT}"
_PORTS: Final = re.compile(r"[0-9]+(,[0-9]+)*")

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: What libpq or an ORM takes for itself, and neither asyncpg nor Postgres knows.
_FOR_OTHERS: Final = frozenset({
    "connect_timeout", "connection_limit", "client_encoding", "fallback_application_name", "gssdelegation",
    "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "load_balance_hosts", "pgbouncer", "pool_timeout", "schema", "sslcompression", "sslsni",
    "tcp_user_timeout",
})  # fmt: skip
#: Ours to say, for each connection what it is for.
_OURS: Final = frozenset({"application_name"})
_BINDING: Final = "channel_binding"
_ATTRIBUTES: Final = "target_session_attrs"
_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})


def fault(dsn: str) -> str | None:
    """What is wrong with an address, to follow the name of its setting; None when it can be used.

    Nothing of the address is in it but the names of parameters.
    """
    parts = _split(dsn)
    if parts is None or parts.scheme not in SCHEMES or not dsn.partition(":")[2].startswith("//"):
        return _SHAPE
    user, at, hosts = parts.netloc.rpartition("@")
    # An unescaped / # or ? ends the host early: the password would be taken for what follows, and shown.
    if "@" in user or "@" in parts.path or "#" in dsn or (not at and "@" in parts.query):
        return f"has a wrong host or port. {_ESCAPES}"
    matches = [_HOST.fullmatch(host) for host in hosts.split(",")]
    if hosts and not all(matches):
        return f"has a wrong host or port. {_ESCAPES}"
    ports = [match[1] for match in matches if match is not None and match[1] is not None]
    if not all(map(_is_port, ports)):
        return _WRONG_PORT
    if any(_BROKEN_PERCENT.search(part) for part in (parts.netloc, parts.path, parts.query)):
        return f"has a % that begins no code of two hexadecimal digits. {_ESCAPES}"
    if any(character.isspace() or ord(character) < 32 for character in dsn):
        return "has a space or a line break in it. Write a space as %20"
    return _fault_of_query(parts.query)


def _fault_of_query(query: str) -> str | None:
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        return f"has parameters that are not written ?name=value&name=value. {_ESCAPES}"
    if (mode := given.get("sslmode")) is not None and mode not in SSL_MODES:
        return f"has an unknown sslmode: it is one of {', '.join(SSL_MODES)}"
    if given.get(_BINDING) == "require":
        return (
            "asks for channel_binding=require, which this server cannot do. Take it out, and let "
            "sslmode=verify-full say who answers"
        )
    ports = given.get("port")
    if ports and not (_PORTS.fullmatch(ports) and all(map(_is_port, ports.split(",")))):
        return _WRONG_PORT
    return None


def _is_port(text: str) -> bool:
    return 0 < int(text[:6]) <= _MAX_PORT


def cleaned(dsn: str) -> str:
    """The address without the parameters that neither asyncpg nor Postgres takes."""
    parts = urlsplit(dsn)
    dropped = _FOR_OTHERS | _OURS | {_BINDING}
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in dropped]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def each_host(dsn: str) -> list[str]:
    """The address of each host that a cleaned one names, in its order. Of several, only the primary will do,
    unless the address says which."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    user, at, netloc = parts.netloc.rpartition("@")
    if netloc:
        hosts = netloc.split(",")
        ports = [""] * len(hosts)
    else:
        hosts = query.get("host", "").split(",")
        ports = query.get("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
    if len(hosts) == 1 or len(ports) != len(hosts):
        return [dsn]
    query.setdefault(_ATTRIBUTES, "primary")
    found = []
    for host, port in zip(hosts, ports, strict=True):
        own = {} if netloc else {"host": host, "port": port}
        one = parts._replace(netloc=f"{user}{at}{host if netloc else ''}", query=urlencode(query | own))
        found.append(urlunsplit(one))
    return found


def primary(dsn: str) -> str:
    """The address, with nothing but a primary taken, unless it says which."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit(parts._replace(query=urlencode({_ATTRIBUTES: "primary"} | query)))


def place(dsn: str) -> str:
    """Where an address points, without its user, password and parameters: for messages."""
    parts = _split(dsn)
    if parts is None:
        return "an address that cannot be read"
    return f"{parts.netloc.rpartition('@')[2] or 'local socket'}{unquote(parts.path)}"


def shown(dsn: str) -> str:
    """An address to show: with its user, without its password and its parameters, which may hold one."""
    parts = _split(dsn)
    if parts is None or fault(dsn) is not None:
        return HIDDEN
    user, at, hosts = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"{parts.scheme}://{f'{name}:{HIDDEN}@' if at and name else ''}{hosts}{parts.path}"


def files(dsn: str) -> dict[str, str]:
    """The files that an address names, by parameter."""
    return {name: value for name, value in parse_qsl(urlsplit(dsn).query) if name in _FILES}


def _split(dsn: str) -> SplitResult | None:
    try:
        return urlsplit(dsn)
    except ValueError:  # its text would hold a piece of the address
        return None
