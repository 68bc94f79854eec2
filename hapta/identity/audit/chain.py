"""Hashes and signatures of the audit log.

Each event's hash covers the one before it, each day's head covers how many there are, and each day begins with the head of
the day before. Hashes need no key, so an export can be checked by anybody; heads are signed with a key that the database
does not hold, so whoever can write to the database alone can forge none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hapta.identity.audit.models import Day, Recorded
from hapta.kit.keyring import Keyring, Secret

_HASHED = len(Recorded._fields) - 2
"""All fields but the two hashes."""


def hash_of(event: Recorded) -> bytes:
    """The hash that belongs to an event with this `prev_hash`."""
    return hashlib.sha256(b"hapta-audit-1\0" + event.prev_hash + msgspec.json.encode(event[:_HASHED])).digest()


def hash_address(key: bytes, address: str) -> str:
    """An address as it is kept where addresses are not: equal for equal ones, and nothing without the key."""
    return "h:" + hmac.digest(key, address.encode(), "sha256")[:16].hex()


class AuditKeys:
    """Signs heads, and judges them.

    Args:
        secret: the configured secret, or the ring of it, whose lasting key signs.
        former: public keys (hex) of former secrets: heads that they signed still count.
    """

    def __init__(self, secret: Secret, former: Sequence[str] = ()) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(Keyring.of(secret).current("audit"))
        self.public = self._key.public_key().public_bytes_raw().hex()
        self.id = _id_of(self.public)
        keys = {_id_of(public): bytes.fromhex(public) for public in (self.public, *former)}
        self._public = {key_id: Ed25519PublicKey.from_public_bytes(raw) for key_id, raw in keys.items()}

    def signed(self, day: int, base: bytes, events: int, head: bytes) -> Day:
        """The day's row with this head."""
        return Day(day, base, events, head, self.id, self._key.sign(_head_text(day, base, events, head)))

    def sign_sweep(self, day: Day, swept_at: int) -> bytes:
        """That the events of a day went for their age."""
        return self._key.sign(_sweep_text(day, swept_at))

    def knows(self, key_id: str) -> bool:
        return key_id in self._public

    def counts(self, day: Day) -> bool:
        """Whether the head was signed by a known key."""
        return self._verify(day.key_id, day.signature, _head_text(day.day, day.base, day.events, day.head))

    def sweep_counts(self, day: Day) -> bool:
        """Whether the mark that the events went was signed by a known key, which may be a later one than the head's."""
        if day.swept_at is None or day.sweep_signature is None:
            return False
        text = _sweep_text(day, day.swept_at)
        return any(self._verify(key_id, day.sweep_signature, text) for key_id in self._public)

    def _verify(self, key_id: str, signature: bytes, text: bytes) -> bool:
        key = self._public.get(key_id)
        if key is None:
            return False
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


def _id_of(public: str) -> str:
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def _head_text(day: int, base: bytes, events: int, head: bytes) -> bytes:
    return msgspec.json.encode(["hapta-audit-day-1", day, base.hex(), events, head.hex()])


def _sweep_text(day: Day, swept_at: int) -> bytes:
    return msgspec.json.encode(["hapta-audit-swept-1", day.day, day.head.hex(), swept_at])
