"""Ids: the newest of many, for knowing what comes again."""


class Ids:
    """Keeps at most ``most`` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: dict[str, None] = {}

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids

    def add(self, id_: str) -> None:
        """Keep this one, as the newest."""
        self._ids.pop(id_, None)
        self._ids[id_] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]

    def clear(self) -> None:
        """Forget all."""
        self._ids.clear()
