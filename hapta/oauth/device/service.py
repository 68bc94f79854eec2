"""`Devices`: the device grant (RFC 8628; contract identity, section 10). It knows no HTTP.

A device gets two codes: one it polls with, and one that a person types elsewhere. Nothing is granted before that person, signed in,
has seen the app, the scopes and where the device asked from, and has said yes.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address

from hapta.db.database import Database, WriteTx
from hapta.identity.models import Origin, Revocation
from hapta.identity.people import IdentityStore
from hapta.kit.access import Caller, UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.errors import InvalidToken, Unavailable
from hapta.kit.ids import Ids
from hapta.oauth.authorize.acr import acr_of
from hapta.oauth.authorize.ports import Announce, Clients, SessionWatchers
from hapta.oauth.authorize.validation import requested_scopes
from hapta.oauth.consents.service import Consents
from hapta.oauth.device import store
from hapta.oauth.device.codes import new_user_code, normal, shown
from hapta.oauth.device.errors import TooManyCodes, UnknownUserCode
from hapta.oauth.device.models import DeviceStart, Pending, PendingView
from hapta.oauth.errors import (
    AccessDenied,
    AuthorizationPending,
    ExpiredToken,
    InvalidGrant,
    SlowDown,
    UnauthorizedClient,
)
from hapta.oauth.models import DEVICE_GRANT, Authorization, Client
from hapta.oauth.resources import Resources
from hapta.oauth.scopes import Scopes
from hapta.settings.oauth import OAuthSettings

MAX_MISSES = 5
MISSES_MS = 15 * 60 * 1000
SLOWER_MS = 5000
EARLY_MS = 250
"""How much too early a poll may come: networks are not clocks."""
KEEP_MS = 3_600_000
SWEEP_BATCH = 500
MAX_DRAWS = 8


class Devices:
    """Starts device grants, takes people's decisions, and answers polls.

    Args:
        watchers: who wants to hear of the session's end.
        key: of 32 bytes, for user codes and counts of guesses (purpose `user-code`).
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        settings: OAuthSettings,
        clients: Clients,
        people: IdentityStore,
        scopes: Scopes,
        resources: Resources,
        consents: Consents,
        watchers: SessionWatchers,
        announce: Announce,
        key: bytes,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._clients = clients
        self._people = people
        self._scopes = scopes
        self._resources = resources
        self._consents = consents
        self._watchers = watchers
        self._announce = announce
        self._key = key

    # --- the device ---

    async def start(self, client: Client, scope: str | None, resources: Sequence[str], origin: Origin) -> DeviceStart:
        """Both codes for a device.

        Raises:
            UnauthorizedClient: the client does not have this grant.
            InvalidScope, InvalidTarget: it may not ask for this.
        """
        if DEVICE_GRANT not in client.grant_types:
            raise UnauthorizedClient
        device_code = self._ids.secret()
        now = self._clock.now_ms()
        pending = Pending(
            client_id=client.client_id,
            code_hash=_digest(device_code),
            scopes=requested_scopes(self._scopes, scope, client),
            resources=self._resources.granted(client, resources),
            address=origin.address,
            user_agent=origin.user_agent,
            created_at=now,
            expires_at=now + self._settings.device_seconds * 1000,
        )
        seconds = self._settings.device_interval_seconds
        for _ in range(MAX_DRAWS):
            code = new_user_code()
            digest = self._hash("code", code)
            if await self._db.write(lambda tx, digest=digest: store.insert(tx, pending, digest, seconds * 1000)):
                return DeviceStart(device_code, shown(code), self._settings.device_seconds, seconds)
        raise Unavailable("No code is free")  # 25 thousand million codes: somebody must have used up most of them

    async def poll(self, tx: WriteTx, device_code: str, client: Client) -> Authorization:
        """What the person allowed; it is used up by this.

        Catch the errors inside the transaction and commit it all the same: it notes when the device asked, and slows down one
        that asks too often.

        Raises:
            AuthorizationPending, SlowDown, ExpiredToken, AccessDenied: as RFC 8628, section 3.5 has it.
            InvalidGrant: the code is unknown, used, or another client's.
        """
        now = self._clock.now_ms()
        digest = _digest(device_code)
        row = await store.polled(tx, client.client_id, digest)
        if row is None or row.consumed_at is not None:
            raise InvalidGrant("The device code is unknown or was used")
        if row.expires_at <= now:
            raise ExpiredToken
        too_soon = row.polled_at is not None and now - row.polled_at < row.interval_ms - EARLY_MS
        interval = row.interval_ms + SLOWER_MS if too_soon else row.interval_ms
        await store.note_poll(tx, client.client_id, digest, now, interval)
        if too_soon:
            raise SlowDown
        if row.decision is None:
            raise AuthorizationPending
        if row.decision != "allowed":
            raise AccessDenied
        allowed = await store.redeem(tx, client.client_id, digest, now, acr_of)
        if allowed is None:
            raise InvalidGrant("The device code was used")
        return allowed

    # --- the person ---

    async def look_up(self, typed: str, caller: Caller, origin: Origin) -> PendingView:
        """The device that waits under a code.

        Every look counts as a guess before it is judged, so parallel guesses are so many guesses; the right one is taken back.

        Raises:
            UnknownUserCode: none does.
            TooManyCodes: there were too many wrong ones from this session or address.
        """
        code = normal(typed)
        now = self._clock.now_ms()
        # Sorted, so that two workers take the row locks in the same order.
        who = sorted(
            {self._hash("session", caller.session_id), self._hash("address", _network(origin.address or "unknown"))}
        )

        async def body(tx: WriteTx) -> Pending | UnknownUserCode | TooManyCodes:
            counts = [await store.miss(tx, one, now, now + MISSES_MS) for one in who]
            if any(misses > MAX_MISSES for misses, _ in counts):
                until = max(until for misses, until in counts if misses > MAX_MISSES)
                return TooManyCodes(retry_after_seconds=(until - now) / 1000)
            found = None if code is None else await store.pending(tx, self._hash("code", code), now)
            if found is None:
                return UnknownUserCode()
            for one in who:
                await store.unmiss(tx, one)
            return found

        found = await self._db.write(body)
        if isinstance(found, UnknownUserCode | TooManyCodes):
            raise found
        return await self._view(found, code or "")

    async def waiting(self, code: str) -> PendingView:
        """The device under a code that this person has found before, and that came back sealed.

        Raises:
            UnknownUserCode: it was decided or has expired meanwhile.
        """
        now = self._clock.now_ms()
        found = await self._db.write(lambda tx: store.pending(tx, self._hash("code", code), now))
        if found is None:
            raise UnknownUserCode
        return await self._view(found, code)

    async def _view(self, found: Pending, code: str) -> PendingView:
        client = await self._clients.find(found.client_id)
        if client is None or DEVICE_GRANT not in client.grant_types:
            raise UnknownUserCode
        return PendingView(found, client, shown(code))

    async def deny(self, view: PendingView, caller: Caller) -> None:
        """Says no to a device.

        Raises:
            UnknownUserCode: somebody has decided already, or it is too late.
        """
        now = self._clock.now_ms()
        if not await self._db.write(lambda tx: store.deny(tx, view.pending, caller.user_id, now)):
            raise UnknownUserCode

    async def allow(self, view: PendingView, caller: Caller, ticked: Collection[str], origin: Origin) -> None:
        """Says yes to a device, with all or some of what it asks for; remembered as a consent.

        Raises:
            UnknownUserCode: somebody has decided already, or it is too late.
            InvalidToken: the person is gone or disabled.
            AccessDenied: nothing was left ticked.
        """
        person = await self._people.find(caller.user_id)
        if person is None or person.disabled:
            raise InvalidToken
        found, client = view.pending, view.client
        open_to = self._scopes.permitted(person.roles, found.scopes)
        granted = tuple(name for name in open_to if name in ticked or not self._scopes.get(name).optional)
        if found.scopes and not granted:
            raise AccessDenied("Nothing was allowed")
        refused = tuple(name for name in open_to if name not in granted)
        now = self._clock.now_ms()
        authorization = Authorization(
            client_id=client.client_id,
            user_id=person.user_id,
            session_id=caller.session_id,
            scopes=granted,
            resources=found.resources,
            redirect_uri=None,
            redirect_uri_sent=False,
            code_challenge=None,
            nonce=None,
            dpop_jkt=None,
            authenticated_at=round(caller.authenticated_at * 1000),
            amr=caller.amr,
            acr=acr_of(caller.amr),
            wants_auth_time=False,
            person_version=person.version,
        )

        async def body(tx: WriteTx) -> list[Revocation]:
            # The consent first: unticking what was allowed before ends everything that the app holds by then.
            ended = await self._consents.allow(
                tx,
                person.user_id,
                client,
                scopes=granted,
                refused=refused,
                resources=found.resources,
                origin=origin,
            )
            if not await store.allow(tx, found, authorization, now):
                raise UnknownUserCode
            await self._watchers.watch(tx, client, person.user_id, caller.session_id)
            return ended

        await self._announce(await self._db.write(body))

    async def drop(self, tx: WriteTx, user_id: UserId, client_id: str) -> None:
        """For `Consents.on_withdrawn`: what was allowed to a device that has not fetched its tokens yet ends as well."""
        await store.drop(tx, user_id, client_id)

    async def sweep(self) -> int:
        """Removes what has been over for an hour, in small batches; how many rows."""
        before = self._clock.now_ms() - KEEP_MS
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, before, SWEEP_BATCH)))

    def _hash(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}:{value}".encode(), sha256)


def _digest(device_code: str) -> bytes:
    return sha256(device_code.encode()).digest()


def _network(address: str) -> str:
    """Who is behind an address: of IPv6 the /64, which is the least that one line gets."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))
    return address
