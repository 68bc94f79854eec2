"""What the walk of oauth_scenario.py is told and what it notes, and how the notes of two walks are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.clients.oauth_person import Person

Json = dict[str, Any]
Notes = dict[str, dict[str, Any]]
"""What was seen, by the name of the step: a status and an error, names of members, claims, ..."""


@dataclass(frozen=True)
class Target:
    """A server with the same clients (`web`, `other`, `public`, `dpop`, `device`, `machine`) and people as the other one.

    Args:
        invitation: lets its bearer register clients.
        person: somebody new, who is not signed in.
    """

    issuer: str
    clients: Mapping[str, Json]
    invitation: str
    person: Callable[[], Person]
    callback: str
    bye: str
    scope: str
    api: str


def differences(theirs: Notes, ours: Notes) -> Iterator[tuple[str, str, str, str]]:
    """What two walks saw differently: step, what, there, here."""
    assert theirs.keys() == ours.keys()
    for step, seen in ours.items():
        for what in sorted(seen.keys() | theirs[step].keys()):
            there, here = theirs[step].get(what), seen.get(what)
            if there != here:
                yield step, what, shown(there), shown(here)


def shown(value: Any) -> str:
    """A value as the table in the documentation writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(str(one) for one in value) or "nothing"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return "-" if value is None else str(value) or "nothing"
