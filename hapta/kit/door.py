"""`Door`: several verifiers as one. Who judges a token is decided by its look; whether it counts, by that judge alone."""

from __future__ import annotations

from typing import Protocol

from hapta.kit.access import Caller, Verifier


class FurtherVerifier(Verifier, Protocol):
    """A `Verifier` of tokens that can be told from all others."""

    def is_ours(self, token: str) -> bool:
        """Whether this is the one to ask; proves nothing."""
        ...


class Door:
    """Implements `kit.access.Verifier`.

    Args:
        usual: judges whatever no further one knows as its own.
    """

    def __init__(self, usual: Verifier) -> None:
        self._usual = usual
        self._further: list[FurtherVerifier] = []

    def add(self, further: FurtherVerifier) -> None:
        """From now on `further` judges what is its own."""
        self._further.append(further)

    def cached(self, token: str) -> Caller | None:
        """See `Verifier.cached`."""
        caller = self._usual.cached(token)
        if caller is None and self._further:
            for one in self._further:
                caller = one.cached(token)
                if caller is not None:
                    break
        return caller

    async def verify(self, token: str) -> Caller:
        """See `Verifier.verify`."""
        for one in self._further:
            if one.is_ours(token):
                return await one.verify(token)
        return await self._usual.verify(token)
