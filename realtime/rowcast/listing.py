"""Every setting as it stands, for people to look at: no secret is in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from rowcast.db.address import HIDDEN, SCHEMES, shown
from rowcast.settings import Settings, variables


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it stands: secrets hidden, where it came from, and what it is."""

    name: str
    variable: str
    value: str
    source: str
    description: str


def describe(settings: Settings, environment: Mapping[str, str]) -> list[Setting]:
    """Every setting, in order. ``environment`` is the process's own, to tell it from a .env file."""
    present = {name.upper() for name in environment}
    shown = []
    for name, field in Settings.model_fields.items():
        names = variables(name)
        used = next((variable for variable in names if variable.upper() in present), None)
        if used is not None:
            source = f"environment, {used}"
        else:
            source = ".env file or argument" if name in settings.model_fields_set else "default"
        value = _show(getattr(settings, name))
        shown.append(Setting(name, names[0], value, source, field.description or ""))
    return shown


def _show(value: Any) -> str:
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        if text.partition(":")[0] in SCHEMES:
            return shown(text)
        return HIDDEN if text else ""
    return ",".join(value) if isinstance(value, tuple) else str(value)
