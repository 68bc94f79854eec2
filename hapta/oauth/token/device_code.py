"""The device grant's second half (RFC 8628, section 3.4): the device asks until its user has decided elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from hapta.db.database import Database, WriteTx
from hapta.oauth.errors import InvalidGrant, OAuthError
from hapta.oauth.families.models import Started
from hapta.oauth.families.service import Families
from hapta.oauth.token.minting import Minter, TokenRequest
from hapta.oauth.token.ports import DeviceCodes, SubjectsOf
from hapta.oauth.token.schemas import TokenAnswer


class _Begun(NamedTuple):
    started: Started
    audience: tuple[str, ...]


class DeviceCodeGrant:
    """Redeems device codes."""

    def __init__(
        self, db: Database, devices: DeviceCodes, families: Families, minter: Minter, subjects: SubjectsOf
    ) -> None:
        self._db = db
        self._devices = devices
        self._families = families
        self._minter = minter
        self._subjects = subjects

    async def answer(self, request: TokenRequest) -> TokenAnswer:
        """Tokens, once the user has allowed it.

        Raises:
            AuthorizationPending, SlowDown, AccessDenied, ExpiredToken: as RFC 8628, section 3.5 has it.
            InvalidGrant: the device code is unknown, used, or another client's.
            InvalidRequest: it is missing.
        """
        device_code = request.required("device_code")
        outcome = await self._db.write(lambda tx: self._redeem(tx, request, device_code))
        if isinstance(outcome, OAuthError):
            raise outcome
        started, audience = outcome
        family = started.family
        return await self._minter.answer(
            request.client,
            family,
            scopes=self._minter.narrowed(request.client, family, ()),
            audience=audience,
            dpop_jkt=request.dpop_jkt,
            refresh_token=started.refresh_token,
        )

    async def _redeem(self, tx: WriteTx, request: TokenRequest, device_code: str) -> _Begun | OAuthError:
        client = request.client
        try:
            authorization = await self._devices.poll(tx, device_code, client)
            audience = self._minter.audience(authorization.resources, request.resources)
        except OAuthError as error:
            return error  # not raised: that a poll came, and came too early, must be committed
        subject = self._subjects.of(client, authorization.user_id)
        started = await self._families.start(tx, authorization, client, subject, dpop_jkt=request.dpop_jkt)
        return _Begun(started, audience) if started is not None else InvalidGrant("The user has signed out")
