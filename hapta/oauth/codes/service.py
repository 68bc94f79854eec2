"""Authorization codes (RFC 6749, section 4.1; contract identity, sections 6.8 and 7).

A code is 256 random bits, kept as a hash, and counts once. `redeem` uses it up before it looks at what came with it, so a
wrong verifier burns it as well; a second use tells which family of tokens the first one began.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from hapta.db.database import Database, WriteTx
from hapta.kit.access import UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.oauth.codes import store
from hapta.oauth.errors import InvalidGrant, InvalidRequest, OAuthError
from hapta.oauth.models import Authorization
from hapta.settings import OAuthSettings

KEEP_USED_MS = 86_400_000
"""How long a used code is remembered, so that its second use is noticed while tokens of the first may live."""
SWEEP_BATCH = 500
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")  # RFC 7636, section 4.1


class Redemption(NamedTuple):
    """What a client sends along with a code.

    Args:
        family_id: of the tokens that this redemption begins, if it succeeds.
    """

    code: str
    redirect_uri: str | None
    verifier: str | None
    dpop_jkt: str | None
    family_id: str


class Replayed(NamedTuple):
    """A code came a second time: what the first use began must end."""

    user_id: UserId
    session_id: str
    family_id: str


class Codes:
    """Issues codes and redeems them.

    Args:
        settings: the life of a code.
    """

    def __init__(self, db: Database, clock: Clock, ids: Ids, settings: OAuthSettings) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._settings = settings

    async def issue(self, tx: WriteTx, authorization: Authorization) -> str:
        """A new code for what a user has allowed; in the transaction of the consent. It counts once that is committed."""
        code = self._ids.secret()
        expires_at = self._clock.now_ms() + self._settings.code_seconds * 1000
        await store.insert(tx, _digest(code), authorization, expires_at)
        return code

    async def redeem(
        self, tx: WriteTx, client_id: str, redemption: Redemption
    ) -> Authorization | Replayed | OAuthError:
        """Uses a code up.

        An error is returned and not raised: the transaction must be committed all the same, or a wrong verifier
        would not burn the code.

        Returns:
            What the user allowed; or whose tokens must end, since the code was used before; or why it does not count.
        """
        now = self._clock.now_ms()
        digest = _digest(redemption.code)
        found = await store.consume(tx, client_id, digest, redemption.family_id, now)
        if found is None:
            replay = await store.note_replay(tx, client_id, digest, now)
            return Replayed(*replay) if replay is not None else InvalidGrant("The code is unknown or was used")
        authorization, expires_at = found
        return _refusal(authorization, redemption, expired=expires_at <= now) or authorization

    async def withdraw(self, tx: WriteTx, user_id: UserId, client_id: str) -> None:
        """Ends the codes that a client holds of a user and has not used yet."""
        await store.withdraw(tx, user_id, client_id)

    async def delete_user(self, tx: WriteTx, user_id: UserId) -> None:
        """Removes all codes of a user who is being deleted."""
        await store.delete_user(tx, user_id)

    async def delete_client(self, tx: WriteTx, client_id: str) -> None:
        """Removes the codes of a client that is being deleted."""
        await store.delete_client(tx, client_id)

    async def sweep(self) -> int:
        """Removes what is over for a day, in small batches; how many rows."""
        before = self._clock.now_ms() - KEEP_USED_MS
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, before, SWEEP_BATCH)))


def check_verifier(verifier: str | None) -> None:
    """Refuses a verifier of the wrong form before anything is looked up (RFC 7636, section 4.1).

    Raises:
        InvalidRequest: it is not 43 to 128 unreserved characters.
    """
    if verifier is not None and not _VERIFIER.fullmatch(verifier):
        raise InvalidRequest("code_verifier must be 43 to 128 unreserved characters")


def _refusal(authorization: Authorization, redemption: Redemption, *, expired: bool) -> OAuthError | None:
    """Why a code that was there does not count; None: it does."""
    if expired:
        return InvalidGrant("The code has expired")
    given = redemption.redirect_uri
    # RFC 6749, section 4.1.3: required when it was sent before; if it comes all the same, it must be the same one.
    if given is None and authorization.redirect_uri_sent:
        return InvalidGrant("redirect_uri is missing")
    if given is not None and given != authorization.redirect_uri:
        return InvalidGrant("redirect_uri is not the one of the authorization request")
    if authorization.code_challenge is None:
        # RFC 9700, section 2.1.1: a verifier without a challenge means that somebody removed the challenge on the way.
        return None if redemption.verifier is None else InvalidRequest("No code_challenge was recorded")
    if redemption.verifier is None:
        return InvalidGrant("code_verifier is missing")
    if not compare_digest(_s256(redemption.verifier), authorization.code_challenge):  # RFC 7636, section 4.6
        return InvalidGrant("code_verifier does not match")
    if authorization.dpop_jkt is not None and authorization.dpop_jkt != redemption.dpop_jkt:
        return InvalidGrant("The code is bound to another DPoP key")  # RFC 9449, section 10
    return None


def _s256(verifier: str) -> str:
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _digest(code: str) -> bytes:
    return sha256(code.encode()).digest()
