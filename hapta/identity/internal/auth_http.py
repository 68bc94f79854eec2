"""`HttpAuthSide`: how the resource server asks the auth server, one signed POST each."""

from __future__ import annotations

import msgspec

from hapta.identity.internal.peer import Peer
from hapta.identity.internal.schemas import (
    AuthenticateAnswer,
    AuthenticateRequest,
    Pulled,
    PullRequest,
    RevokeDeviceRequest,
)
from hapta.identity.internal.service import read_answer
from hapta.identity.internal.tokens import Finding, InternalTokens
from hapta.identity.models import Change
from hapta.kit.access import UserId

AUTHENTICATE = "/internal/v1/authenticate"
REVOCATIONS = "/internal/v1/revocations"
CHANGES = "/internal/v1/changes"
DEVICES = "/internal/v1/devices/revoke"


class Done(msgspec.Struct, frozen=True):
    """The answer where there is nothing to say."""


class HttpAuthSide:
    """The auth server behind its internal routes. Implements `service.AuthSide`."""

    def __init__(self, peer: Peer, tokens: InternalTokens) -> None:
        self._peer = peer
        self._tokens = tokens

    async def authenticate(self, token: str) -> Finding:
        """See `AuthSide.authenticate`."""
        answer = await self._peer.call(AUTHENTICATE, AuthenticateRequest(token), AuthenticateAnswer)
        return read_answer(self._tokens, answer, token)

    async def pull(self, since: int | None) -> Pulled:
        """See `AuthSide.pull`."""
        return await self._peer.call(REVOCATIONS, PullRequest(since), Pulled)

    async def settle(self, change: Change) -> None:
        """See `AuthSide.settle`."""
        await self._peer.call(CHANGES, change, Done)

    async def revoke_device(self, user_id: UserId, device_id: str) -> None:
        """See `AuthSide.revoke_device`."""
        await self._peer.call(DEVICES, RevokeDeviceRequest(user_id, device_id), Done)
