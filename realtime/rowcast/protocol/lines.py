"""A change as one line of text, for people who watch a terminal."""

import json
from collections.abc import Mapping
from typing import Any


def change_line(data: Mapping[str, Any]) -> str:
    """One plain line for the ``data`` object of a change, beginning with its operation."""
    parts = [f"{data['type']:<6}", f"{data['schema']}.{data['table']}"]
    for name, title in (("old_record", "old"), ("record", "new")):
        if name in data:
            parts.append(f"{title} {json.dumps(data[name], ensure_ascii=False, default=str)}")
    return " ".join(parts)
