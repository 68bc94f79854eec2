"""How sure a sign-in is (`acr`), read off how it was done (`amr`, RFC 8176).

`1` is a single factor, `2` are two different ones. Values that we do not know are ignored, as nobody can be held to them.
"""

from __future__ import annotations

from collections.abc import Iterable

SINGLE = "1"
MULTIPLE = "2"
ACR_VALUES = (SINGLE, MULTIPLE)
_KNOWN = frozenset({"pwd", "pin", "kba"})
_HELD = frozenset({"otp", "sms", "hwk", "swk"})


def acr_of(amr: Iterable[str]) -> str:
    """The class that a sign-in by these methods reaches."""
    methods = frozenset(amr)
    return MULTIPLE if "mfa" in methods or (methods & _KNOWN and methods & _HELD) else SINGLE


def meets(reached: str, wanted: Iterable[str]) -> bool:
    """Whether a class is at least one of the wanted ones; with none wanted it is."""
    known = [value for value in wanted if value in ACR_VALUES]
    return not known or reached >= min(known)
