"""Time-based one-time passwords (RFC 6238): six digits of HMAC-SHA-1 over 30-second steps, as authenticator apps make them."""

from __future__ import annotations

import hmac
import secrets
from base64 import b32encode
from urllib.parse import quote, urlencode

SEED_BYTES = 20
STEP_SECONDS = 30
DIGITS = 6
WINDOW_STEPS = 1
"""How many steps a clock may be ahead or behind."""


def new_seed() -> bytes:
    """A random seed, as long as the hash (RFC 4226, section 4, R6)."""
    return secrets.token_bytes(SEED_BYTES)


def code_at(seed: bytes, step: int) -> str:
    """The code of one step (RFC 4226, section 5.3)."""
    digest = hmac.digest(seed, step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def matching_step(seed: bytes, code: str, now_seconds: float) -> int | None:
    """The step that a code belongs to, now or one step to either side; None when it is wrong.

    All three are compared whatever the outcome, so the time tells nothing.
    """
    current = int(now_seconds) // STEP_SECONDS
    found: int | None = None
    for step in range(current - WINDOW_STEPS, current + WINDOW_STEPS + 1):
        if hmac.compare_digest(code_at(seed, step), code):
            found = step
    return found


def as_base32(seed: bytes) -> str:
    """The seed as people type it."""
    return b32encode(seed).decode("ascii").rstrip("=")


def as_uri(seed: bytes, account: str, issuer: str) -> str:
    """The seed as a QR code carries it (the `otpauth` key URI format of authenticator apps)."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    rest = urlencode({"secret": as_base32(seed), "issuer": issuer, "digits": DIGITS, "period": STEP_SECONDS})
    return f"otpauth://totp/{label}?{rest}"
