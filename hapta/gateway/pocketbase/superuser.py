"""The superuser of PocketBase: for its schema, its stream of changes and what an operator asks for; never for visitors.

One token is kept and renewed in time. A refused login is not tried again for a while: each costs PocketBase a tenth of a
second of a core, and a wrong password does not become right by repeating it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any, cast

import msgspec
import structlog

from hapta.gateway.errors import UpstreamAway, UpstreamBroken
from hapta.gateway.models import SUPERUSERS
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.clock import Clock

Json = Any

RENEW_SECONDS = 600.0
"""So long before its end a token is replaced."""
LIFE_SECONDS = 1800.0
"""How long a token is used whose end cannot be read."""
REFUSED_SECONDS = 5.0
"""How long after a refused login the next one is made."""

_log = structlog.stdlib.get_logger("hapta.gateway.superuser")


class SuperuserRefused(UpstreamAway):
    """PocketBase does not take the superuser's e-mail address and password."""

    message = "PocketBase refused the gateway's superuser."


class RequestRefused(UpstreamBroken):
    """PocketBase answered the superuser with another status than 2xx.

    Attributes:
        status: of the answer.
        answer: its decoded body, or None.
    """

    def __init__(self, method: str, path: str, status: int, answer: Json) -> None:
        said = cast("dict[str, Json]", answer).get("message", "") if isinstance(answer, dict) else ""
        super().__init__(f"PocketBase answered {status} to {method} {path.partition('?')[0]}: {said}")
        self.status = status
        self.answer: Json = answer


class Superuser:
    """The account with which the gateway itself speaks to PocketBase.

    Args:
        email, password: of a record in `_superusers`.
        quiet: whether a refused login is no news.
    """

    def __init__(self, pb: PocketBase, email: str, password: str, clock: Clock, *, quiet: bool = False) -> None:
        self._pb = pb
        self._email = email
        self._password = password
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0
        self._refused_until = float("-inf")
        self._told = quiet
        self._logging_in = asyncio.Lock()

    async def token(self) -> str:
        """PocketBase's token of the superuser, good for some minutes at least.

        Raises:
            SuperuserRefused: PocketBase does not take the credentials.
            UpstreamAway, UpstreamBroken, UpstreamSlow: PocketBase did not answer.
        """
        if self._token and self._clock.now() < self._renew_at:
            return self._token
        async with self._logging_in:
            if self._token and self._clock.now() < self._renew_at:
                return self._token
            return await self._login()

    def forget(self, token: str) -> None:
        """Does not use a token again that was refused."""
        if token == self._token:
            self._token = ""

    async def request(self, method: str, path: str, json: Json = None) -> Json:
        """Asks as the superuser; logs in anew, once, when the token does not count any more.

        Args:
            path: path and query, encoded.
            json: the body, if any.

        Returns:
            The decoded answer; None where it is empty.

        Raises:
            RequestRefused: the answer is not a 2xx.
            SuperuserRefused, UpstreamAway, UpstreamBroken, UpstreamSlow: as `token`.
        """
        body = None if json is None else msgspec.json.encode(json)
        for last in (False, True):
            token = await self.token()
            answer = await self._pb.send(method, path, token=token, body=body, media_type="application/json")
            # To an endpoint of superusers, a token that does not count is 401, and 403 where guests are told "only superusers".
            if answer.status in (401, 403) and not last:
                self.forget(token)
                continue
            decoded = _decoded(answer.body)
            if 200 <= answer.status < 300:
                return decoded
            raise RequestRefused(method, path, answer.status, decoded)
        raise AssertionError("unreachable")

    async def _login(self) -> str:
        if self._clock.monotonic() < self._refused_until:
            raise SuperuserRefused()
        answer = await self._pb.send(
            "POST",
            f"/api/collections/{SUPERUSERS}/auth-with-password",
            body=msgspec.json.encode({"identity": self._email, "password": self._password}),
            media_type="application/json",
        )
        decoded = _decoded(answer.body)
        token = cast("dict[str, Json]", decoded).get("token") if isinstance(decoded, dict) else None
        if answer.status != 200 or not isinstance(token, str):
            self._refused_until = self._clock.monotonic() + REFUSED_SECONDS
            if not self._told:
                self._told = True
                _log.error("PocketBase refused the superuser; check gateway.admin_email", status=answer.status)
            raise SuperuserRefused()
        self._told = False
        now = self._clock.now()
        ends = _end(token)
        self._renew_at = now + LIFE_SECONDS if ends is None else max(ends - RENEW_SECONDS, now + (ends - now) / 2)
        self._token = token
        return token


def _decoded(body: bytes) -> Json:
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise UpstreamBroken() from error


class _Claims(msgspec.Struct):
    exp: float


def _end(token: str) -> float | None:
    """When a token ends, in Unix seconds, as it says itself."""
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims).exp
    except (IndexError, binascii.Error, ValueError, msgspec.MsgspecError):
        return None
