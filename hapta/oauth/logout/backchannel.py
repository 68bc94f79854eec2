"""Back-channel logout (OpenID Connect Back-Channel Logout 1.0): clients are told, server to server, that a session has ended.

Who wants to hear of a session is written down with each code; ending a session, in whatever way, turns that into deliveries in the
same transaction. They are sent afterwards, by whichever worker claims them, and again until they arrive or it is too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast
from urllib.parse import urlencode

import structlog

from hapta.db.database import Database, WriteTx
from hapta.http.fetch import FetchFailed, FetchRefused, GuardedFetch
from hapta.identity.models import Revocation
from hapta.kit.access import SessionId, UserId
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.oauth.authorize.ports import Clients
from hapta.oauth.issuer import Issuer
from hapta.oauth.jose import SigningAlgorithm
from hapta.oauth.logout import store
from hapta.oauth.logout.models import Delivery
from hapta.oauth.models import Client
from hapta.oauth.subjects import Subjects

TOKEN_TYP = "logout+jwt"  # noqa: S105 - a media type
TOKEN_SECONDS = 120
EVENT = "http://schemas.openid.net/event/backchannel-logout"
KEEP_WATCHER_MS = 100 * 86_400_000
"""Longer than any session lives."""
RETRY_SECONDS = (5, 30, 300, 1800, 7200)
LEASE_MS = 60_000
BATCH = 20
SWEEP_BATCH = 500
POLL_SECONDS = 2.0
MAX_ANSWER_BYTES = 4096
_log = structlog.get_logger("hapta.oauth")


class Signer(Protocol):
    """Signs logout tokens (`SigningKeys`)."""

    async def ready(self, alg: SigningAlgorithm | None = None) -> None: ...

    def sign(self, claims: dict[str, Any], *, alg: SigningAlgorithm | None = None, typ: str) -> str: ...


class BackchannelLogout:
    """Implements `authorize.ports.SessionWatchers`; give `session_ended` to `SessionService.on_end`, and call
    `deliver_due` again and again."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        ids: Ids,
        issuer: Issuer,
        clients: Clients,
        subjects: Subjects,
        keys: Signer,
        fetch: GuardedFetch,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._issuer = issuer
        self._clients = clients
        self._subjects = subjects
        self._keys = keys
        self._fetch = fetch

    async def watch(self, tx: WriteTx, client: Client, user_id: UserId, session_id: SessionId) -> None:
        """Remembers that a client has signed a person in from this session, if it wants to hear of its end."""
        if client.backchannel_logout_uri is not None:
            until = self._clock.now_ms() + KEEP_WATCHER_MS
            await store.watch(tx, user_id, session_id, client.client_id, until)

    async def session_ended(
        self, tx: WriteTx, user_id: UserId, session_ids: Sequence[SessionId], reason: str
    ) -> Sequence[Revocation]:
        """For `SessionService.on_end`."""
        del reason
        told = await store.take_watchers(tx, user_id, session_ids)
        if told:
            deliveries = [Delivery(client_id, self._ids.uuid(), user_id, session, 0) for client_id, session in told]
            await store.put(tx, deliveries, self._clock.now_ms())
        return ()

    async def deliver_due(self) -> int:
        """Sends all that is due now; how many were tried."""
        tried = 0
        while True:
            now = self._clock.now_ms()
            due = await self._db.write(lambda tx, now=now: store.claim(tx, now, now + LEASE_MS, BATCH))
            # None is left behind by another's error.
            for error in await asyncio.gather(*[self._deliver(one) for one in due], return_exceptions=True):
                if error is not None:
                    raise error
            tried += len(due)
            if len(due) < BATCH:
                return tried

    async def _deliver(self, delivery: Delivery) -> None:
        arrived = await self._send(delivery)
        if arrived or delivery.attempts > len(RETRY_SECONDS):
            if not arrived:
                _log.warning("a client was not told of a logout", client_id=delivery.client_id)
            await self._db.write(lambda tx: store.done(tx, delivery))
            return
        due_at = self._clock.now_ms() + RETRY_SECONDS[delivery.attempts - 1] * 1000
        await self._db.write(lambda tx: store.later(tx, delivery, due_at))

    async def _send(self, delivery: Delivery) -> bool:
        """One attempt; whether nothing more is to be done."""
        client = await self._clients.find(delivery.client_id)
        if client is None or client.backchannel_logout_uri is None:
            return True
        token = await self._token(client, delivery)
        try:
            answer = await self._fetch.request(
                "POST",
                client.backchannel_logout_uri,
                headers={"content-type": "application/x-www-form-urlencoded"},
                body=urlencode({"logout_token": token}).encode(),
                max_bytes=MAX_ANSWER_BYTES,
                truncate=True,
            )
        except FetchRefused:
            return True
        except FetchFailed:
            return False
        return answer.status in (200, 204, 400)  # section 2.8: 400 is the client's last word

    async def _token(self, client: Client, delivery: Delivery) -> str:
        """Section 2.4. There is no `sid`, as ID tokens carry none: the client signs out the person."""
        now = int(self._clock.now())
        alg = cast("SigningAlgorithm", client.id_token_alg)
        claims: dict[str, Any] = {
            "iss": self._issuer.url,
            "sub": self._subjects.of(client, delivery.user_id),
            "aud": client.client_id,
            "type": "logout",
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "jti": delivery.id,
            "events": {EVENT: {}},
        }
        await self._keys.ready(alg)
        return self._keys.sign(claims, alg=alg, typ=TOKEN_TYP)

    async def sweep(self) -> int:
        """Forgets watchers of sessions that are long over, in small batches; how many."""
        now = self._clock.now_ms()
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, now, SWEEP_BATCH)))
