"""Tokens: the access token of each join, and of each channel whose token is refreshed.

What is asked for in one turn of the event loop shares one call of the callable: after a reconnect there may
be hundreds of joins, and channels of one token are warned of its end together.
"""

from collections.abc import Callable

from ._core.wants import Authorize, Refresh
from .credentials import Credential, resolve
from .errors import RowcastError
from .tasks import Tasks

Ask = Authorize | Refresh
Answer = Callable[[Ask, str | RowcastError | None], None]


class Tokens:
    """Answers the core's requests; at once where there is nothing to call."""

    def __init__(self, credential: Credential | None, timeout: float, tasks: Tasks, answer: Answer) -> None:
        self._credential, self._timeout = credential, timeout
        self._tasks, self._answer = tasks, answer
        self._asked: list[Ask] = []
        self._replaced = 0

    @property
    def fresh(self) -> bool:
        """Whether another token can be had by asking again."""
        return callable(self._credential)

    def use(self, credential: Credential) -> None:
        """Answer with this from now on, also what was asked for and is not answered yet."""
        self._credential = credential
        self._replaced += 1

    async def now(self) -> str | None:
        """A token for a request of its own; None where there is none to send. Raises TokenError."""
        while self._credential is not None:
            replaced = self._replaced
            token = await resolve(self._credential, "token", self._timeout)
            if replaced == self._replaced:
                return token
        return None

    def ask(self, ask: Ask) -> None:
        """Have this answered: with a token, None (there is none to send), or why it cannot be had."""
        if self._credential is None or isinstance(self._credential, str):
            self._answer(ask, self._credential)
            return
        self._asked.append(ask)
        if len(self._asked) == 1:
            self._tasks.spawn(self._fetch(self._credential), "rowcast token")

    async def _fetch(self, credential: Credential) -> None:
        asked, self._asked = self._asked, []
        replaced = self._replaced
        token: str | RowcastError
        try:
            token = await resolve(credential, "token", self._timeout)
        except RowcastError as error:
            token = error
        for one in asked:
            if replaced == self._replaced:
                self._answer(one, token)
            else:  # the user has named another since
                self.ask(one)
