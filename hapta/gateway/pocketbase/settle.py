"""What a PocketBase of Hapta's own needs before visitors come: the superuser, and that it takes their addresses from us."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog

from hapta.gateway.errors import UpstreamBroken
from hapta.gateway.models import SUPERUSERS
from hapta.gateway.pocketbase.home import Credentials
from hapta.gateway.pocketbase.superuser import Superuser, SuperuserRefused
from hapta.gateway.upstream.client import PocketBase
from hapta.kit.clock import Clock

Json = Any
Upsert = Callable[[str, str], Awaitable[None]]
"""Makes the superuser of an e-mail address, or gives it another password."""

FORWARDED = "X-Forwarded-For"

_log = structlog.stdlib.get_logger("hapta.gateway.pocketbase")


class Asks(Protocol):
    """What is needed of the superuser."""

    async def request(self, method: str, path: str, json: Json = None) -> Json: ...


async def settle(pb: PocketBase, clock: Clock, credentials: Credentials, upsert: Upsert) -> None:
    """Makes the superuser if there is none with these credentials, and has PocketBase trust the gateway's header.

    Raises:
        UpstreamAway, UpstreamBroken, UpstreamSlow: PocketBase did not answer properly.
    """
    superuser = Superuser(pb, credentials.email, credentials.password, clock, quiet=True)
    try:
        await superuser.token()
    except SuperuserRefused:
        await _make(pb, clock, credentials, upsert)
        superuser = Superuser(pb, credentials.email, credentials.password, clock)
    if not await trusts_addresses(superuser):
        await superuser.request("PATCH", "/api/settings", {"trustedProxy": {"headers": [FORWARDED]}})


async def trusts_addresses(superuser: Asks) -> bool:
    """Whether PocketBase takes visitors' addresses from a header. If not, all of them share one limit and one login origin
    there (contract gateway, A.5); of a PocketBase that is not ours, its operator has to set that."""
    found = await superuser.request("GET", "/api/settings?fields=trustedProxy")
    try:
        return bool(found["trustedProxy"]["headers"])
    except (KeyError, TypeError) as error:
        raise UpstreamBroken() from error


async def _make(pb: PocketBase, clock: Clock, credentials: Credentials, upsert: Upsert) -> None:
    # Other users of the machine may read the arguments of a program: what is given there counts for a moment only.
    passing = secrets.token_urlsafe(24)
    await upsert(credentials.email, passing)
    superuser = Superuser(pb, credentials.email, passing, clock)
    found = await superuser.request("GET", f"/api/collections/{SUPERUSERS}/records?perPage=500&fields=id,email")
    try:
        record_id = next(one["id"] for one in found["items"] if one["email"].lower() == credentials.email.lower())
    except (KeyError, TypeError, StopIteration) as error:
        raise UpstreamBroken() from error
    password = {"password": credentials.password, "passwordConfirm": credentials.password}
    await superuser.request("PATCH", f"/api/collections/{SUPERUSERS}/records/{record_id}", password)
    _log.info("made the superuser of PocketBase", email=credentials.email)
