"""What key login and pairing refuse, in the words that their clients know (contract relay, section 2)."""

from __future__ import annotations

from hapta.kit.errors import NotFound, Unauthenticated


class InvalidSignature(Unauthenticated):
    """The signature is not one of this key over this challenge, or one of the three is none at all."""

    code = "invalid_signature"
    message = "Invalid signature"


class InvalidPublicKey(Unauthenticated):
    """The key is not 32 bytes in base64."""

    code = "invalid_public_key"
    message = "Invalid public key"


class PairingNotFound(NotFound):
    """Nobody has asked to be paired with this key, or it was too long ago."""

    code = "pairing_not_found"
    message = "Request not found"


class RefreshRefused(Unauthenticated):
    """The token cannot be exchanged for a newer one. The members are those that clients of `/v1/auth/refresh` read."""

    code = "TOKEN_EXPIRED"
    message = "Token expired beyond grace period or is invalid"

    def __init__(self, message: str | None = None, *, code: str = "TOKEN_EXPIRED") -> None:
        super().__init__(message, success=False, code=code)
