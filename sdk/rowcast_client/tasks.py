"""Tasks: the background tasks of one client, each kept until it ends, none left when the client closes."""

import asyncio
import contextvars
import logging
from collections.abc import Coroutine

_log = logging.getLogger("rowcast_client")


class Tasks:
    """A set of running tasks. An exception in one is a fault of this package, and logged as such."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(
        self, work: Coroutine[object, object, None], name: str, context: contextvars.Context | None = None
    ) -> asyncio.Task[None]:
        """Run it in the background."""
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self, grace: float) -> None:
        """Wait for all of them so long, then cancel the rest. The task that calls this is left out."""
        others = {task for task in self._running if task is not asyncio.current_task()}
        if not others:
            return
        _, late = await asyncio.wait(others, timeout=grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=grace)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("task %s ended by %s", task.get_name(), type(fault).__name__)
