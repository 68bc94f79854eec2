"""The one configured secret and the keys made from it. Every key has a purpose, and no two purposes share bytes.

The settings loader and `app.py` call `check_secret` before anything is signed; `derive_key` is the only way from the
secret to a key. The secret itself signs nothing, so a leaked key never gives away another one.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Purpose = Literal[
    "access-token",
    "access-token-kid",
    "prelogin-salt",
    "limit-key",
    "csrf",
    "internal",
    "flow-seal",
    "data-seal",
    "otp",
    "throttle",
    "refresh-token",
    "refresh-token-kid",
    "refresh-successor",
    "mfa-token",
    "session-key",
    "audit",
    "audit-address",
    "subject",
    "device-cookie",
    "dpop-nonce",
    "key-seal",
    "root-seal",
    "user-code",
    "gateway-token",
    "gateway-token-kid",
    "gateway-seal",
    "file-link",
    "relay-ticket",
    "relay-github-state",
    "relay-vault",
    "relay-names",
]

MIN_PRODUCTION_BYTES = 32
SAMPLE_SECRETS = frozenset(
    {
        "secret",
        "changeme",
        "change-me",
        "change_me",
        "changemechangemechangemechangeme",
        "your-secret-key",
        "your-jwt-secret",
        "your_jwt_secret",
        "your-super-secret-jwt-key",
        "your-super-secret-jwt-key-change-this-in-production",
        "your-secret-key-change-in-production",
        "your-256-bit-secret",
        "a-string-secret-at-least-256-bits-long",
        "super-secret-jwt-token-with-at-least-32-characters-long",
        "jwt_secret",
        "jwt-secret",
        "keyboard cat",
        "0123456789abcdef0123456789abcdef",
    }
)
"""Values that stand in samples, tutorials and .env templates: everybody knows them."""


class WeakSecret(ValueError):
    """The configured secret cannot be used; the text says why and how to make a better one."""


def check_secret(secret: str, *, production: bool) -> None:
    """Refuses a secret that would protect nothing.

    Args:
        secret: the configured value (`JWT_SECRET`).
        production: whether the strict rules apply: at least 32 bytes, no sample value, not one repeated character.

    Raises:
        WeakSecret: the secret is empty or, in production, too short or well known.
    """
    if not secret.strip():
        raise WeakSecret(f"the secret is empty; {_ADVICE}")
    if not production:
        return
    if len(secret.encode("utf-8", "surrogatepass")) < MIN_PRODUCTION_BYTES:
        raise WeakSecret(f"the secret is shorter than {MIN_PRODUCTION_BYTES} bytes; {_ADVICE}")
    if secret.strip().lower() in SAMPLE_SECRETS or len(set(secret)) < 8:
        raise WeakSecret(f"the secret is a sample value or far too simple; {_ADVICE}")


_ADVICE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'


def derive_key(secret: str, purpose: Purpose, *, size_bytes: int = 32) -> bytes:
    """The key for one purpose (HKDF-SHA-256, RFC 5869, with the purpose as `info`).

    Tokens are signed with a derived key and not with the configured text itself: a tool that shares the secret for another
    use cannot forge tokens by accident, and the text may be of any form.
    """
    info = f"hapta/v1/{purpose}".encode()
    return HKDF(SHA256(), size_bytes, salt=b"hapta", info=info).derive(secret.encode("utf-8", "surrogatepass"))


def load_or_create_secret(path: Path) -> tuple[str, bool]:
    """The secret kept in a file (mode 0600), made there when it is missing.

    Safe when several processes start at once: the file appears whole under its name or not at all, and all of them read
    the one that won.

    Returns:
        The secret, and whether this call made it.
    """
    with suppress(FileNotFoundError):
        return _read_secret(path), False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails where rename would overwrite: the first process wins
        except FileExistsError:
            return _read_secret(path), False
        return _read_secret(path), True
    finally:
        draft.unlink()


def _read_secret(path: Path) -> str:
    secret = path.read_text(encoding="utf-8").strip()
    if not secret:
        raise WeakSecret(f"{path} is empty; remove it and start again to have a new secret made")
    return secret
