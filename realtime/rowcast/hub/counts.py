"""What the fan-out did since the start."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Messages that were sent, and those that were not since somebody may not see the row."""

    messages: int = 0
    hidden: int = 0
