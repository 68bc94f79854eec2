"""A signing key as it is stored. Its state follows from its instants (Unix milliseconds) alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

KeyState = Literal["pending", "active", "retiring", "retired", "revoked"]


class StoredKey(NamedTuple):
    """One row of `auth_keys`."""

    kid: str
    alg: str
    serial: int
    public: str
    """JWK, JSON."""
    sealed: bytes | None
    created_at: int
    activates_at: int
    retires_at: int | None
    revoked_at: int | None

    def is_published(self, now: int) -> bool:
        """Whether tokens of this key count, and the JWKS shows it."""
        return self.revoked_at is None and (self.retires_at is None or now < self.retires_at)

    def may_sign(self, now: int) -> bool:
        """Whether it may sign; of several that may, the one with the highest serial does."""
        return self.is_published(now) and self.activates_at <= now


class KeyInfo(NamedTuple):
    """A key as operators see it."""

    kid: str
    alg: str
    state: KeyState
    created_at: int
    activates_at: int
    retires_at: int | None
    revoked_at: int | None


def states(keys: list[StoredKey], now: int) -> list[KeyInfo]:
    """All keys with what they are for now, newest first."""
    active: dict[str, int] = {}
    for key in keys:
        if key.may_sign(now):
            active[key.alg] = max(active.get(key.alg, 0), key.serial)

    def state(key: StoredKey) -> KeyState:
        if key.revoked_at is not None:
            return "revoked"
        if not key.is_published(now):
            return "retired"
        if key.activates_at > now:
            return "pending"
        return "active" if active[key.alg] == key.serial else "retiring"

    newest_first = sorted(keys, key=lambda key: (key.alg, -key.serial))
    return [
        KeyInfo(k.kid, k.alg, state(k), k.created_at, k.activates_at, k.retires_at, k.revoked_at) for k in newest_first
    ]
