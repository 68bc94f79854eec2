"""Wire types of key login and pairing (contract relay, section 2). Unknown members are ignored; null means absent."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hapta.http.validate import Wire

MAX_RESPONSE_CHARACTERS = 4096
Base64 = Annotated[str, msgspec.Meta(min_length=1, max_length=256, description="Base64, standard or URL-safe")]
Response = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_RESPONSE_CHARACTERS,
        description="Ephemeral public key, nonce and box, in base64; opaque to the server",
    ),
]


class KeyLoginRequest(Wire, frozen=True):
    public_key: Base64
    challenge: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    signature: Base64


class PairingRequest(Wire, frozen=True):
    public_key: Base64
    supports_v2: bool | None = None


class AccountPairingRequest(Wire, frozen=True):
    public_key: Base64


class PairingResponse(Wire, frozen=True):
    public_key: Base64
    response: Response


class PairingQuery(Wire, frozen=True):
    public_key: Annotated[str, msgspec.Meta(max_length=256)] = ""


class KeyLoginAnswer(Wire, frozen=True):
    success: bool
    token: str


class PairingAnswer(Wire, frozen=True, omit_defaults=True):
    state: Literal["requested", "authorized"]
    token: str | None = None
    response: str | None = None


class PairingStatusAnswer(Wire, frozen=True):
    status: Literal["not_found", "pending", "authorized"]
    supports_v2: bool = msgspec.field(name="supportsV2")


class DoneAnswer(Wire, frozen=True):
    success: bool


class RefreshAnswer(Wire, frozen=True):
    success: bool
    token: str
    expires_in: int
