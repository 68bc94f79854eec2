"""An authenticator in software: makes passkeys and signs challenges with them, also wrongly, where a test says so."""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from webauthn.helpers import encode_cbor

ORIGIN = "https://hapta.test"
PRESENT, VERIFIED, ELIGIBLE, BACKED_UP, ATTESTED = 1, 4, 8, 16, 64


def b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class SoftKey:
    """One passkey.

    Args:
        synced: kept in step between devices, so that it may leave them and does not count its uses.
        count: uses so far.
    """

    synced: bool = False
    count: int = 0
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    handle: bytes = b""
    key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP256R1()))

    @property
    def id(self) -> str:
        return b64(self.credential_id)

    def make(
        self,
        options: dict[str, Any],
        *,
        origin: str = ORIGIN,
        rp_id: str | None = None,
        kind: str = "webauthn.create",
        challenge: str | None = None,
        flags: int = PRESENT | VERIFIED,
    ) -> dict[str, Any]:
        """What the browser answers to the options of a registration."""
        self.handle = unb64(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        cose = encode_cbor({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        attested = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + cose
        data = self._data(rp_id or options["rp"]["id"], flags | ATTESTED) + attested
        attestation = encode_cbor({"fmt": "none", "attStmt": {}, "authData": data})
        response = {
            "clientDataJSON": b64(_client_data(kind, challenge or options["challenge"], origin)),
            "attestationObject": b64(attestation),
            "transports": ["internal"],
        }
        return self._credential(response)

    def prove(
        self,
        options: dict[str, Any],
        *,
        origin: str = ORIGIN,
        rp_id: str | None = None,
        kind: str = "webauthn.get",
        challenge: str | None = None,
        flags: int = PRESENT | VERIFIED,
        handle: bytes | None = None,
        signed_by: EllipticCurvePrivateKey | None = None,
    ) -> dict[str, Any]:
        """What the browser answers to the options of an authentication.

        Args:
            handle: whom it names; the one that it was made for when left out, nobody when empty.
            signed_by: another key than its own.
        """
        if not self.synced:
            self.count += 1
        data = self._data(rp_id or options["rpId"], flags)
        client = _client_data(kind, challenge or options["challenge"], origin)
        signature = (signed_by or self.key).sign(data + sha256(client).digest(), ECDSA(SHA256()))
        response = {"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(signature)}
        named = self.handle if handle is None else handle
        return self._credential(response | ({"userHandle": b64(named)} if named else {}))

    def _data(self, rp_id: str, flags: int) -> bytes:
        backup = ELIGIBLE | BACKED_UP if self.synced else 0
        return sha256(rp_id.encode()).digest() + bytes([flags | backup]) + self.count.to_bytes(4, "big")

    def _credential(self, response: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "rawId": self.id,
            "type": "public-key",
            "response": response,
            "clientExtensionResults": {},
        }


def _client_data(kind: str, challenge: str, origin: str) -> bytes:
    return json.dumps({"type": kind, "challenge": challenge, "origin": origin, "crossOrigin": False}).encode()
