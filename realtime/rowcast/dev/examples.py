"""What `rowcast dev --example` shows: a folder with a page, and perhaps a program and SQL to begin with."""

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import asyncpg

from rowcast.errors import RowcastError, SettingsError


@dataclass(frozen=True, slots=True)
class Example:
    """A folder that has ``index.html``. ``setup.sql`` is run at each start, where there is one, and a program
    has the folder's name: ``chat/chat.py``. Pages may use what lies in the folders beside theirs.

    Raises SettingsError for a folder without a page.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "index.html").is_file():
            raise SettingsError(f"{self.folder} is no example: it has no index.html.")

    @property
    def pages(self) -> Path:
        """The folder that is served at /pages/."""
        return self.folder.absolute().parent

    async def set_up(self, connection: asyncpg.Connection) -> None:
        """Run its SQL, in one transaction. Raises RowcastError."""
        path = self.folder / "setup.sql"
        if path.is_file():
            try:
                await connection.execute(path.read_text())
            except asyncpg.PostgresError as error:
                raise RowcastError(f"{path} cannot be run. Postgres says: {error}") from None

    def hints(self, url: str, key: str, user: str | None = None, token: str | None = None) -> Iterator[str]:
        """Where its page is and how its program is started, by ``key`` or for a user with a token.

        Keys stand in the address's fragment, which no browser sends to a server.
        """
        given = {"key": key} | ({} if user is None or token is None else {"name": user, "token": token})
        yield f"Page         {url}/pages/{self.folder.absolute().name}/#{urlencode(given)}"
        program = self.folder / f"{self.folder.absolute().name}.py"
        if program.is_file():
            words = [_python(), str(program), url, key, "--name", user or "ann"]
            words += [] if token is None else ["--token", token]
            yield f"Program      {shlex.join(words)}"


def _python() -> str:
    """This Python, as the terminal may call it."""
    near = os.path.relpath(sys.executable)
    return sys.executable if near.startswith(os.pardir) else near
