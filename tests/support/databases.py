"""Databases of a test's own: made, cloned from a template, and dropped, whoever is still connected."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

_T = TypeVar("_T")
_TIMEOUT = 60.0


def address_of(admin: str, name: str) -> str:
    """The address of database ``name`` on the server of ``admin``."""
    return urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))


def create(admin: str, name: str, template: str = "template1") -> str:
    """Make database ``name`` as a copy of ``template``; its address."""

    async def run() -> None:
        connection = await asyncpg.connect(admin, timeout=_TIMEOUT, command_timeout=_TIMEOUT)
        try:
            # A tenth of the time of the other way, where nothing is flushed. PostgreSQL 14 knows no other.
            strategy = " STRATEGY FILE_COPY" if connection.get_server_version() >= (15,) else ""
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{strategy}')
        finally:
            await connection.close()

    run_apart(run())
    return address_of(admin, name)


def drop(admin: str, name: str) -> None:
    """Drop database ``name``, and with it every connection to it."""
    execute(admin, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def execute(address: str, statement: str) -> None:
    """Run SQL on a connection of its own."""

    async def run() -> None:
        connection = await asyncpg.connect(address, timeout=_TIMEOUT, command_timeout=_TIMEOUT)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    run_apart(run())


def run_apart(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end on a loop of its own, in a thread: the test's own loop is not touched."""
    result: Future[_T] = Future()

    def run() -> None:
        try:
            result.set_result(asyncio.run(work))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="database")
    thread.start()
    thread.join()
    return result.result()
