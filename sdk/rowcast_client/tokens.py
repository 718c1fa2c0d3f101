"""Tokens: the access token of each join.

Joins asked for in one turn of the event loop share one call of the callable: after a reconnect there may be
hundreds of them.
"""

from collections.abc import Callable

from ._core.wants import Authorize
from .credentials import Credential, resolve
from .errors import RowcastError
from .tasks import Tasks

Answer = Callable[[Authorize, str | RowcastError | None], None]


class Tokens:
    """Answers the joins' requests; at once where there is nothing to call."""

    def __init__(self, credential: Credential | None, timeout: float, tasks: Tasks, answer: Answer) -> None:
        self._credential, self._timeout = credential, timeout
        self._tasks, self._answer = tasks, answer
        self._asked: list[Authorize] = []

    def ask(self, join: Authorize) -> None:
        """Have this join answered: with a token, None (there is none to send), or why it cannot be had."""
        if self._credential is None or isinstance(self._credential, str):
            self._answer(join, self._credential)
            return
        self._asked.append(join)
        if len(self._asked) == 1:
            self._tasks.spawn(self._fetch(self._credential), "rowcast token")

    async def _fetch(self, credential: Credential) -> None:
        joins, self._asked = self._asked, []
        token: str | RowcastError
        try:
            token = await resolve(credential, "token", self._timeout)
        except RowcastError as error:
            token = error
        for join in joins:
            self._answer(join, token)
