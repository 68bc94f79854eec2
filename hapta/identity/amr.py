"""How somebody proved who they are: the words of RFC 8176, and what two of them make together."""

from __future__ import annotations

from collections.abc import Iterable

MULTIPLE = "mfa"
_KINDS = {"pwd": "known", "pin": "known", "kba": "known", "fed": "vouched"}
"""Of the other words (`otp`, `sms`, `hwk`, `swk`, ...) each stands for something that the person has."""


def combined(before: Iterable[str], further: Iterable[str]) -> tuple[str, ...]:
    """All ways together, each once, in their order; with `mfa` when they are of different kinds."""
    words = tuple(dict.fromkeys((*before, *further)))
    kinds = {_KINDS.get(word, "had") for word in words if word != MULTIPLE}
    if len(kinds) > 1 and MULTIPLE not in words:
        return (*words, MULTIPLE)
    return words
