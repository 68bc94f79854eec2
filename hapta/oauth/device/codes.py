"""User codes: short enough to be typed off a screen, without vowels (no words) and without letters that look alike.

Eight letters of 20 are 34 bits, so a code is guarded by the few guesses that are allowed, and kept as an HMAC.
"""

from __future__ import annotations

import secrets

LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""RFC 8628, section 6.1."""
LENGTH = 8


def new_user_code() -> str:
    """A code in its plain form: `BCDFGHJK`. Every letter is drawn evenly."""
    return "".join(secrets.choice(LETTERS) for _ in range(LENGTH))


def normal(typed: str) -> str | None:
    """The plain form of what somebody typed; None when it is no code. Case and punctuation do not matter."""
    letters = "".join(c for c in typed[:64].upper() if c.isalnum())
    return letters if len(letters) == LENGTH and all(c in LETTERS for c in letters) else None


def shown(code: str) -> str:
    """The code as people see it: `BCDF-GHJK`."""
    return f"{code[:4]}-{code[4:]}"
