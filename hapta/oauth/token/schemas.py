"""What the token endpoint answers (RFC 6749, section 5.1)."""

from __future__ import annotations

import msgspec


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens. `scope` is always told, also when it is what was asked for (contract identity, section 7)."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None
    scope: str
    id_token: str | None = None
