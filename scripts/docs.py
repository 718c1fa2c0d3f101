"""Writes docs/settings.md and docs/cli.md from the code. With --check it writes nothing, and fails where
they differ."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.main import get_command

from rowcast.cli.main import app
from rowcast.settings import Settings, variables
from rowcast.units import Duration, Size, duration_text, size_text

DOCS = Path(__file__).resolve().parent.parent / "docs"
WRITTEN = "<!-- Written by `make docs` from the code: change it there. -->\n"
#: What Duration and Size put into a field's metadata.
DURATION, SIZE = get_args(Duration)[1], get_args(Size)[1]


def settings_page() -> str:
    rows = [_setting(name, field) for name, field in Settings.model_fields.items()]
    return f"""{WRITTEN}
# Settings

They come from the environment, or from a file `.env` in the folder where the server starts; the environment
goes first. `rowcast settings` shows each one as it stands, and where it came from. Wrong ones stop the start
with exit code 2, all named at once.

A duration is a number of `ms`, `s`, `m`, `h` or `d`: `250ms`, `90s`, `30d`; without a unit it is seconds,
except in the names that end in `_MS`. A size is a whole number of `B`, `kB` (1,024), `MB` or `GB`; without a
unit it is bytes. In a password within an address, write `/` as `%2F`, `#` as `%23`, `?` as `%3F`, and `@` as
`%40`.

| variable | kind | default | what it is |
| --- | --- | --- | --- |
{"".join(rows)}
A variable after the first is another name for the same setting, read where the first is not set: most are
Supabase's. More on keys, tokens and limits is in [operations.md](operations.md).
"""


def _setting(name: str, field: FieldInfo) -> str:
    names = ", ".join(f"`{one}`" for one in variables(name))
    kind, default = _kind(field)
    return f"| {names} | {kind} | {default} | {field.description} |\n"


def _kind(field: FieldInfo) -> tuple[str, str]:
    default = "**required**" if field.is_required() else _code(field.default)
    if DURATION in field.metadata:
        return "duration", _code(duration_text(field.default))
    if SIZE in field.metadata:
        return "size", _code(size_text(field.default))
    if field.annotation in (SecretStr, SecretStr | None):
        return "text, never shown", default
    if field.annotation is bool:
        return "`true` or `false`", _code(str(field.default).lower())
    if field.annotation in (int, int | None):
        return "number", default
    if get_origin(field.annotation) is tuple:
        return "names, with commas", _code(",".join(field.default))
    if get_origin(field.annotation) is Mapping:
        return "JSON object", _code(field.default)
    return "text", default


def _code(value: object) -> str:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return "" if value is None or not text else f"`{text}`"


def cli_page() -> str:
    group: Any = get_command(app)
    return f"""{WRITTEN}
# Commands

Settings come from the environment or a `.env` file: see [settings.md](settings.md). Exit codes: 0 for done, 1
for what could not be done, 2 for wrong settings or arguments. `rowcast --version` shows the version, and
`rowcast COMMAND --help` what is said here.
{"".join(_command(name, one) for name, one in group.commands.items() if not one.hidden)}"""


def _command(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not parameter.hidden]
    usage = " ".join([f"rowcast {name}", *(_usage(one) for one in shown)])
    table = "\n| | |\n| --- | --- |\n" + "".join(map(_parameter, shown)) if shown else ""
    return f"\n## rowcast {name}\n\n{command.help}\n\n```sh\n{usage}\n```\n{table}"


def _named(parameter: Any) -> str:
    if not _is_option(parameter):
        return str(parameter.name).upper() + ("..." if parameter.nargs == -1 else "")
    return str(parameter.opts[0]) + ("" if parameter.is_flag else f" {parameter.name.upper()}")


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _usage(parameter: Any) -> str:
    return _named(parameter) if parameter.required else f"[{_named(parameter)}]"


def _parameter(parameter: Any) -> str:
    given = parameter.default
    default = f" By default `{given}`." if isinstance(given, str) and given else ""
    return f"| `{_named(parameter)}` | {parameter.help}{default} |\n"


def _differences(pages: Mapping[str, str]) -> Iterator[str]:
    for name, text in pages.items():
        path = DOCS / name
        stands = path.read_text() if path.exists() else ""
        yield from difflib.unified_diff(stands.splitlines(), text.splitlines(), f"docs/{name}", "the code")


def main() -> int:
    pages = {"settings.md": settings_page(), "cli.md": cli_page()}
    if "--check" not in sys.argv:
        for name, text in pages.items():
            (DOCS / name).write_text(text)
        return 0
    found = list(_differences(pages))
    if found:
        print("\n".join([*found, "The documents are out of date. Run `make docs`."]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
