"""The authorization code grant (RFC 6749, section 4.1.3; RFC 7636; contract identity, section 7).

The code is used up, and the family of its tokens begun, in one transaction. A code that comes a second time ends that family:
either the first or the second one to send it has stolen it, and nobody can tell which.
"""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import Database, WriteTx
from hapta.identity.events import Event, EventLog
from hapta.identity.models import Revocation
from hapta.oauth.codes.service import Codes, Redemption, Replayed, check_verifier
from hapta.oauth.errors import InvalidGrant, OAuthError
from hapta.oauth.families.models import Started
from hapta.oauth.families.service import Announce, Families
from hapta.oauth.token.minting import Minter, TokenRequest
from hapta.oauth.token.ports import SubjectsOf
from hapta.oauth.token.schemas import TokenAnswer


class _Begun(NamedTuple):
    started: Started
    audience: tuple[str, ...]
    nonce: str | None


class AuthorizationCodeGrant:
    """Redeems codes."""

    def __init__(
        self,
        db: Database,
        codes: Codes,
        families: Families,
        minter: Minter,
        subjects: SubjectsOf,
        events: EventLog,
        announce: Announce,
    ) -> None:
        self._db = db
        self._codes = codes
        self._families = families
        self._minter = minter
        self._subjects = subjects
        self._events = events
        self._announce = announce

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """Tokens for a code.

        Raises:
            InvalidGrant: the code does not count, or what came along does not fit it; it is used up all the same.
            InvalidRequest: a parameter is missing or malformed, or there is a verifier although no challenge was recorded.
            InvalidTarget: a resource was not granted; the code is used up as well.
        """
        code = request.required("code")
        redirect_uri, verifier = request.form.one("redirect_uri"), request.form.one("code_verifier")
        check_verifier(verifier)
        redemption = Redemption(code, redirect_uri, verifier, request.dpop_jkt, self._families.new_id())
        outcome = await self._db.write(lambda tx: self._redeem(tx, request, redemption))
        if isinstance(outcome, list):
            await self._announce(outcome)
            raise InvalidGrant("The code is unknown or was used")
        if isinstance(outcome, OAuthError):
            raise outcome
        family = outcome.started.family
        return await self._minter.answer(
            request.client,
            family,
            scopes=self._minter.narrowed(request.client, family, ()),
            audience=outcome.audience,
            dpop_jkt=request.dpop_jkt,
            refresh_token=outcome.started.refresh_token,
            nonce=outcome.nonce,
        )

    async def _redeem(
        self, tx: WriteTx, request: TokenRequest, redemption: Redemption
    ) -> _Begun | list[Revocation] | OAuthError:
        client = request.client
        redeemed = await self._codes.redeem(tx, client.client_id, redemption)
        if isinstance(redeemed, Replayed):
            event = Event(
                "auth.token.misused",
                redeemed.user_id,
                request.origin,
                outcome="failure",
                actor=f"client:{client.client_id}",
                client_id=client.client_id,
                session_id=redeemed.session_id,
                reason="code_replayed",
                data={"family": redeemed.family_id},
            )
            revocations = await self._families.revoke(tx, client.client_id, redeemed.family_id, "code_replayed")
            await self._events.record(tx, event)
            return revocations
        if isinstance(redeemed, OAuthError):
            return redeemed
        try:
            audience = self._minter.audience(redeemed.resources, request.resources)
        except OAuthError as error:
            return error
        subject = self._subjects.of(client, redeemed.user_id)
        started = await self._families.start(
            tx, redeemed, client, subject, dpop_jkt=request.dpop_jkt, family_id=redemption.family_id
        )
        if started is None:
            return InvalidGrant("The user has signed out")
        return _Begun(started, audience, redeemed.nonce)
