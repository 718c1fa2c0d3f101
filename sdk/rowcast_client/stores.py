"""Stores: where a channel keeps how far it has come, so that another process goes on from there."""

import asyncio
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import quote

from .errors import StoreError, UsageError

_LONGEST = 200


@runtime_checkable
class PositionStore(Protocol):
    """Keeps one position for each key. Both may raise anything: they are called again."""

    async def load(self, key: str) -> str | None:
        """The position saved last, or None."""
        ...

    async def save(self, key: str, position: str) -> None:
        """Keep this position in place of the last; when this returns it must outlive a crash."""
        ...


class FileStore:
    """A directory with a file for each key. A crash, at any point, leaves the old position or the new one.

    The directory is made when it is missing. A key is for one process at a time.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if not os.fspath(directory):
            raise UsageError("FileStore needs a directory")
        self._directory = Path(directory)
        self._lock = threading.Lock()

    async def load(self, key: str) -> str | None:
        """The position saved last, or None. Raises StoreError, or OSError."""
        return await asyncio.to_thread(self._read, key)

    async def save(self, key: str, position: str) -> None:
        """Write the position to the disk. Raises OSError."""
        await asyncio.to_thread(self._write, key, position)

    def _read(self, key: str) -> str | None:
        path = self._path(key)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            kept = json.loads(text)
            if kept["key"] == key and isinstance(kept["position"], str):
                return str(kept["position"])
        except (ValueError, LookupError, TypeError):
            pass
        hint = "remove it to begin at the present"
        raise StoreError(f"{path} holds no position of the key {key!r}", hint=hint)

    def _write(self, key: str, position: str) -> None:
        path = self._path(key)
        new = path.with_name(f"{path.name}.new")
        # Who was cancelled while a thread wrote may save again while it still does.
        with self._lock:
            self._directory.mkdir(parents=True, exist_ok=True)
            with new.open("w", encoding="utf-8") as file:
                json.dump({"key": key, "position": position}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            if hasattr(os, "O_DIRECTORY"):  # else the system cannot open a directory, to flush its entries
                _flush(self._directory)

    def _path(self, key: str) -> Path:
        name = quote(key, safe="")
        if len(name) > _LONGEST:
            name = f"{name[:100]}-{hashlib.sha256(key.encode()).hexdigest()}"
        return self._directory / f"{name}.json"


def _flush(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
