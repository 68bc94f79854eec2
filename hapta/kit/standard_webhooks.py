"""Standard Webhooks 1.0: how a message to somebody else's server is signed, and how a receiver checks it.

The server signs with it, and `WebhookVerifier` is for receivers written in Python. What is signed is the raw body as it
travels: a receiver that decodes and encodes JSON again has another text, and no signature for it.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix that the standard gives to secrets
PUBLIC_PREFIX = "whpk_"
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
TOLERANCE_SECONDS = 300
MAX_REMEMBERED = 100_000
"""Message ids that a verifier keeps at most; the oldest go first."""

_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class BadWebhook(ValueError):
    """A message that a receiver must not act upon. The text says why, for its log."""


class VerifiedWebhook(NamedTuple):
    """What the headers of a message that counts say."""

    id: str
    timestamp: int
    """Unix time in seconds at which this attempt was made."""


def new_secret(size_bytes: int = 32) -> str:
    """A new secret as people copy it: `whsec_` and base64 of 24 to 64 random bytes."""
    if not MIN_SECRET_BYTES <= size_bytes <= MAX_SECRET_BYTES:
        raise ValueError("a webhook secret has 24 to 64 bytes")
    return SECRET_PREFIX + b64encode(secrets.token_bytes(size_bytes)).decode()


def secret_bytes(secret: str) -> bytes:
    """The key inside a `whsec_` secret.

    Raises:
        ValueError: it has another form or length. The text does not repeat the secret.
    """
    try:
        raw = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (Base64Error, ValueError):
        raise ValueError("a webhook secret is whsec_ and base64") from None
    if not MIN_SECRET_BYTES <= len(raw) <= MAX_SECRET_BYTES:
        raise ValueError("a webhook secret has 24 to 64 bytes")
    return raw


def public_key_text(key: Ed25519PrivateKey) -> str:
    """The public half as receivers are given it: `whpk_` and base64."""
    return PUBLIC_PREFIX + b64encode(key.public_key().public_bytes_raw()).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """One entry of `webhook-signature`, by HMAC-SHA-256.

    Args:
        secret: `whsec_...`.
        message_id: the same for every attempt at one message; without a dot, which separates what is signed.
        timestamp: Unix time in seconds of this attempt.

    Raises:
        ValueError: the secret or the id has another form.
    """
    mac = hmac.digest(secret_bytes(secret), _signed(message_id, timestamp, body), "sha256")
    return "v1," + b64encode(mac).decode()


def sign_ed25519(key: Ed25519PrivateKey, message_id: str, timestamp: int, body: bytes) -> str:
    """One entry of `webhook-signature`, by Ed25519: the receiver holds nothing that could sign."""
    return "v1a," + b64encode(key.sign(_signed(message_id, timestamp, body))).decode()


def headers(
    secrets_live: Sequence[str], message_id: str, timestamp: int, body: bytes, key: Ed25519PrivateKey | None = None
) -> dict[str, str]:
    """The three headers of one attempt.

    Args:
        secrets_live: every secret that counts now: two while one replaces the other.
        key: signs as well, for receivers that want `v1a`.
    """
    signatures = [sign(secret, message_id, timestamp, body) for secret in secrets_live]
    if key is not None:
        signatures.append(sign_ed25519(key, message_id, timestamp, body))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


class WebhookVerifier:
    """Checks messages that a receiver gets, and knows those it has seen.

    Example:
        verifier = WebhookVerifier(["whsec_..."])
        verifier.verify(raw_body, request.headers)   # raises BadWebhook

    Args:
        keys: secrets (`whsec_...`) and public keys (`whpk_...`) that count; several while one replaces another.
        tolerance_seconds: how far the message's time may be from ours, either way.
        now: Unix time in seconds; for tests.
    """

    def __init__(
        self,
        keys: Sequence[str],
        tolerance_seconds: int = TOLERANCE_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not keys:
            raise ValueError("a verifier needs at least one key")
        self._secrets = [secret_bytes(key) for key in keys if not key.startswith(PUBLIC_PREFIX)]
        self._public = [_public_key(key) for key in keys if key.startswith(PUBLIC_PREFIX)]
        self._tolerance = tolerance_seconds
        self._now = now
        self._seen: dict[str, float] = {}

    def verify(self, body: bytes, headers: Mapping[str, str]) -> VerifiedWebhook:
        """Id and time of a message that counts and was not seen before.

        Args:
            body: the raw bytes of the request, never JSON that was encoded again.
            headers: of the request; the case of names does not matter.

        Raises:
            BadWebhook: a header is missing, no signature fits, it is too old or too new, or it came before.
        """
        named = {name.lower(): value for name, value in headers.items()}
        try:
            message_id, instant, signatures = (named[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        except KeyError as missing:
            raise BadWebhook(f"the header {missing.args[0]} is missing") from None
        if not message_id or "." in message_id or _TIMESTAMP.fullmatch(instant) is None:
            raise BadWebhook("the id or the timestamp has another form")
        # The signature before anything that it covers: an attacker learns nothing of our clock or memory.
        if not self._signed_by_us(f"{message_id}.{instant}.".encode() + body, signatures):
            raise BadWebhook("no signature fits")
        now = self._now()
        if abs(now - int(instant)) > self._tolerance:
            raise BadWebhook("the message is too old or too new")
        self._remember(message_id, now)
        return VerifiedWebhook(message_id, int(instant))

    def forget(self, message_id: str) -> None:
        """Takes an id back that was verified but could not be worked off, so that the next attempt counts."""
        self._seen.pop(message_id, None)

    def _signed_by_us(self, signed: bytes, signatures: str) -> bool:
        expected = [hmac.digest(secret, signed, "sha256") for secret in self._secrets]
        found = False
        for entry in signatures.split(" "):
            version, _, encoded = entry.partition(",")
            try:
                given = b64decode(encoded, validate=True)
            except (Base64Error, ValueError):
                continue
            if version == "v1":
                # Every secret is compared, also after one fits: how long it takes does not say which.
                for mac in expected:
                    found = hmac.compare_digest(given, mac) or found
            elif version == "v1a":
                found = any(_verified(key, given, signed) for key in self._public) or found
        return found

    def _remember(self, message_id: str, now: float) -> None:
        # A message is acceptable from `tolerance` before its time to `tolerance` after it.
        keep = 2 * self._tolerance
        while self._seen:
            oldest, at = next(iter(self._seen.items()))
            if now - at <= keep and len(self._seen) < MAX_REMEMBERED:
                break
            del self._seen[oldest]
        if message_id in self._seen:
            raise BadWebhook("the message came before")
        self._seen[message_id] = now


def _signed(message_id: str, timestamp: int, body: bytes) -> bytes:
    if not message_id or "." in message_id:
        raise ValueError("a webhook's id is not empty and has no dot")
    return f"{message_id}.{timestamp}.".encode() + body


def _public_key(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(b64decode(text.removeprefix(PUBLIC_PREFIX), validate=True))
    except ValueError:
        raise ValueError("a webhook's public key is whpk_ and base64 of 32 bytes") from None


def _verified(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
