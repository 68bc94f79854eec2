"""`PushedService`: authorization requests that clients push before the browser comes (RFC 9126; contract identity, section 9).

A reference opens flows for a minute, so a page can be reloaded; it is used up by the code, and by nothing else.
"""

from __future__ import annotations

from hashlib import sha256

from hapta.db.database import Database, WriteTx
from hapta.kit.background import in_batches
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.oauth.authorize.flow import FLOW_MS, BadFlow, FlowSealer
from hapta.oauth.authorize.models import Asked, Refused, target_of
from hapta.oauth.authorize.validation import PUSHED_PREFIX
from hapta.oauth.errors import InvalidRequestUri
from hapta.oauth.par import store
from hapta.settings.oauth import OAuthSettings

SWEEP_BATCH = 500


class PushedService:
    """Keeps pushed requests. Implements `authorize.ports.PushedRequests`.

    Args:
        sealer: what clients push may name people (`login_hint`), so it is kept sealed.
    """

    def __init__(self, db: Database, clock: Clock, ids: Ids, sealer: FlowSealer, settings: OAuthSettings) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._sealer = sealer
        self._settings = settings

    async def push(self, asked: Asked) -> tuple[str, int]:
        """Keeps a validated request; its `request_uri`, and for how many seconds it counts."""
        reference = PUSHED_PREFIX + self._ids.secret()
        seconds = self._settings.par_seconds
        now = self._clock.now_ms()
        expires_at = now + seconds * 1000
        keep_until = expires_at + FLOW_MS
        request = self._sealer.seal(asked, _purpose(asked.client_id), until=keep_until).encode()
        digest = _digest(reference)
        await self._db.write(
            lambda tx: store.insert(tx, asked.client_id, digest, request, expires_at, keep_until), single=True
        )
        return reference, seconds

    async def find(self, client_id: str, request_uri: str) -> Asked | None:
        """See `PushedRequests.find`."""
        digest = _digest(request_uri)
        row = await self._db.read(lambda tx: store.find(tx, client_id, digest), snapshot=False)
        if row is None:
            return None
        try:
            asked = self._sealer.open(row.request.decode(), Asked, _purpose(client_id))
        except BadFlow:
            return None
        if row.consumed_at is not None or row.expires_at <= self._clock.now_ms():
            raise Refused(target_of(asked), InvalidRequestUri())
        return asked

    async def burn(self, tx: WriteTx, client_id: str, request_uri: str) -> None:
        """See `PushedRequests.burn`."""
        if not await store.burn(tx, client_id, _digest(request_uri), self._clock.now_ms()):
            raise InvalidRequestUri

    async def sweep(self) -> int:
        """Removes what nothing can come of any more, in small batches; how many rows."""
        now = self._clock.now_ms()
        return await in_batches(lambda: self._db.write(lambda tx: store.sweep(tx, now, SWEEP_BATCH)))


def _digest(reference: str) -> bytes:
    return sha256(reference.encode()).digest()


def _purpose(client_id: str) -> str:
    return f"pushed:{client_id}"
