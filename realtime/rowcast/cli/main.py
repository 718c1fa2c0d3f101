"""The command line: ``rowcast`` and its commands."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import asyncpg
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rowcast import __version__
from rowcast.auth.tokens import sign
from rowcast.capture.tables import Status, status
from rowcast.capture.watching import Outcome, unwatch, watch
from rowcast.db.address import place
from rowcast.db.connection import REFUSED, connect, unreachable
from rowcast.db.migrations import is_migrated, migrate, whats_missing
from rowcast.db.uninstall import Removal, uninstall
from rowcast.errors import RowcastError, SettingsError
from rowcast.listing import describe
from rowcast.settings import Settings, load
from rowcast.units import parse_duration

_NOT_MIGRATED = "This database was not migrated. Run `rowcast migrate` or `rowcast serve`."

app = typer.Typer(
    help="A self-hosted realtime server for Postgres.", no_args_is_help=True, pretty_exceptions_enable=False
)
# A pipe has no width to fit into.
_out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 240)


def _fail(text: str, code: int = 1) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(code)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _settings(**values: Any) -> Settings:
    try:
        return load(**values)
    except SettingsError as error:
        _fail(str(error), 2)


def _run(work: Coroutine[Any, Any, Any], settings: Settings) -> Any:
    """Run a command's work; what goes wrong on purpose becomes one line and an exit code."""
    try:
        return asyncio.run(work)
    except RowcastError as error:
        _fail(str(error))
    except REFUSED as error:
        _fail(unreachable(settings.direct_dsn, error))
    except asyncpg.PostgresError as error:
        _fail(f"Postgres says: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rowcast {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A self-hosted realtime server for Postgres."""


@app.command()
def serve() -> None:
    """Run the server beside the Postgres of DATABASE_URL, until Ctrl-C."""
    from rowcast.runtime import serve as run

    settings = _settings()
    try:
        run(settings)
    except Exception as error:
        match _first(error):
            case RowcastError() as reason:
                _fail(str(reason))
            case asyncpg.PostgresError() as reason:
                _fail(f"Postgres says: {reason}")
        raise


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@app.command("migrate")
def migrate_(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be run, and run nothing.")
    ] = False,
    print_admin_sql: Annotated[
        bool,
        typer.Option("--print-admin-sql", help="Print what an administrator has to run, and run nothing."),
    ] = False,
) -> None:
    """Bring the database to this version."""
    settings = _settings()
    if print_admin_sql:
        print(_run(whats_missing(settings.direct_dsn), settings).admin_sql(), end="")
        return
    done = _run(migrate(settings.direct_dsn, dry_run=dry_run, say=_warn), settings)
    for name in done:
        print(f"{'would run' if dry_run else 'ran'} {name}")
    if not done:
        print("The database is up to date.")


@app.command("uninstall")
def uninstall_(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while servers are connected.")] = False,
) -> None:
    """Take everything out of the database that Rowcast added, and nothing else."""
    settings = _settings()
    if not yes:
        typer.confirm(f"Take Rowcast and all kept changes out of {place(settings.direct_dsn)}?", abort=True)
    done: Removal | None = _run(uninstall(settings.direct_dsn, force=force), settings)
    if done is None:
        print("Rowcast is not in this database.")
        return
    for what in done.removed:
        print(f"removed {what}")
    for what in done.kept:
        print(f"kept {what}")
    if done.admin_sql:
        print("-- What only an administrator may take out:", *done.admin_sql, sep="\n")


@app.command("watch")
def watch_(
    tables: Annotated[list[str], typer.Argument(help="Names: table or schema.table.")],
    replica_identity_full: Annotated[
        bool, typer.Option("--replica-identity-full", help="For tables without primary key.")
    ] = False,
) -> None:
    """Capture changes of tables from now on."""
    _each(
        tables,
        lambda connection, name: watch(connection, name, identity_full=replica_identity_full),
        "captured",
    )


@app.command("unwatch")
def unwatch_(tables: Annotated[list[str], typer.Argument(help="Names: table or schema.table.")]) -> None:
    """Stop capturing changes of tables."""
    _each(tables, unwatch, "no longer captured", begins=False)


def _each(names: list[str], action: Any, what: str, *, begins: bool = True) -> None:
    settings = _settings()

    async def work() -> None:
        # Who takes a table out, or migrates apart, does not mean to put Rowcast in.
        if not ((begins and settings.migrate) or await is_migrated(settings.direct_dsn)):
            raise RowcastError(_NOT_MIGRATED)
        if settings.migrate:
            await migrate(settings.direct_dsn, beside=True)
        connection = await connect(settings.direct_dsn, purpose="command", pooled=True)
        try:
            for name in names:
                outcome: Outcome = await action(connection, name)
                print(f"{outcome.table} is {what}" + ("" if outcome.changed else " (it was already)"))
                if outcome.hint:
                    print(f"  To let clients read it: {outcome.hint}")
        finally:
            await connection.close()

    _run(work(), settings)


@app.command()
def tables(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show which tables are captured, what is kept of them, and why others are not."""
    settings = _settings()

    async def work() -> list[Status]:
        connection = await connect(settings.direct_dsn, purpose="command", pooled=True)
        try:
            if not await connection.fetchval("select to_regclass('rowcast.migrations') is not null"):
                raise RowcastError(_NOT_MIGRATED)
            return await status(connection)
        finally:
            await connection.close()

    found: list[Status] = _run(work(), settings)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2, default=datetime.isoformat))
        return
    if not found:
        print("No table is captured. Add one with `rowcast watch TABLE`.")
        return
    shown = Table("table", "captured", "since", "changes", "bytes", "last change", "lag", "rows", box=None)
    for one in found:
        shown.add_row(
            f"{one.schema}.{one.table}",
            "yes" if one.captured else f"no: {one.reason}",
            f"{one.since:%Y-%m-%d %H:%M:%S}" if one.since else "",
            str(one.changes),
            str(one.bytes),
            f"{one.last:%Y-%m-%d %H:%M:%S}" if one.last else "",
            f"{one.lag:.1f} s" if one.lag else "",
            escape(" ".join(filter(None, (one.filter, "row level security" if one.rls else None)))),
        )
    _out.print(shown)
    for one in found:
        if one.mend is not None:
            print(f"To capture {one.schema}.{one.table}: {one.mend}")


def _duration(text: str) -> float:
    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


def _secret(settings: Settings) -> str:
    secret = settings.jwt_secret.get_secret_value()
    return secret or _fail("ROWCAST_JWT_SECRET is missing: tokens are signed with it.", 2)


@app.command()
def token(
    role: Annotated[str, typer.Option(help="The Postgres role that the token stands for.")],
    sub: Annotated[str | None, typer.Option(help="The user's id, which auth.uid() reads.")] = None,
    expires: Annotated[str, typer.Option(help="How long it is good: 90s, 1h, 30d.")] = "1h",
) -> None:
    """Make a token, signed with ROWCAST_JWT_SECRET."""
    settings = _settings(**({} if "DATABASE_URL" in os.environ else {"database_url": "postgresql://unused"}))
    now = int(time.time())
    claims = {"role": role, "iat": now, "exp": now + int(_duration(expires)), **({"sub": sub} if sub else {})}
    print(sign(claims, _secret(settings)))


@app.command()
def tail(
    table: Annotated[str, typer.Argument(help="table or schema.table")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    url: Annotated[
        str | None, typer.Option(help="The server; by default the one on this machine's PORT.")
    ] = None,
    role: Annotated[str, typer.Option(help="Whose rights to read with.")] = "service_role",
) -> None:
    """Print changes of a table as they come, from a running server."""
    from rowcast.cli.tailing import follow

    settings = _settings(**({} if "DATABASE_URL" in os.environ else {"database_url": "postgresql://unused"}))
    address = url or f"http://127.0.0.1:{settings.port}"
    _run(follow(address, table, role, _secret(settings), as_json=as_json), settings)


@app.command("settings")
def settings_(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show every setting, where it came from, and no secret."""
    found = describe(_settings(), os.environ)
    if as_json:
        fields = ("value", "source", "description")
        shown_as = {one.variable: {field: getattr(one, field) for field in fields} for one in found}
        print(json.dumps(shown_as, indent=2))
        return
    shown = Table("variable", "value", "from", "what it is", box=None)
    for one in found:
        shown.add_row(one.variable, one.value, one.source, one.description)
    _out.print(shown)


@app.command()
def demo(
    changes: Annotated[int | None, typer.Option(help="End after so many delivered changes.", min=1)] = None,
) -> None:
    """Start a Postgres and the server, and show a subscriber receiving live changes."""
    try:
        from rowcast.dev.demo import run_demo
    except ImportError as error:
        _fail(f"The demo needs {error.name}: install rowcast[dev].")
    raise typer.Exit(run_demo(changes))


@app.command()
def dev(
    example: Annotated[
        Path | None,
        typer.Option(
            help="A folder with index.html to serve at /pages/; its setup.sql is run at the start, where it "
            "has one."
        ),
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="Make a token for a user, whose sub this is. May be repeated.")
    ] = None,
) -> None:
    """Keep a Postgres and the server running for development, with data that stays."""
    try:
        from rowcast.dev.demo import run_dev
    except ImportError as error:
        _fail(f"`rowcast dev` needs {error.name}: install rowcast[dev].")
    raise typer.Exit(run_dev(example, user or ()))


if __name__ == "__main__":
    app()
