"""The canary: one record of PocketBase that is touched again and again, whose echo proves that a stream of changes is alive.

PocketBase sends no heartbeat, so a stream that lost its peer looks like one on which nothing happens. The collection has no rules
at all, so nobody but a superuser sees it (contract gateway, C.4 point 5).
"""

from __future__ import annotations

from typing import Literal, Protocol

from hapta.gateway.models import Json
from hapta.gateway.pocketbase.superuser import RequestRefused
from hapta.kit.errors import HaptaError

CANARY = "hapta_canary"
RECORD = "haptacanary0000"

Touched = Literal["touched", "away", "refused"]


class Superuser(Protocol):
    """The gateway's own account in PocketBase."""

    async def token(self) -> str: ...
    async def request(self, method: str, path: str, json: Json = None) -> Json: ...


class Canary:
    """Touches the record, and makes it and its collection where they are missing."""

    def __init__(self, superuser: Superuser) -> None:
        self._superuser = superuser
        self._beat = 0

    async def touch(self) -> Touched:
        """One beat.

        Returns:
            `refused` when PocketBase will not have the collection or the record, so that there will be no echo; `away` when it
            could not be asked.
        """
        self._beat += 1
        beat = {"beat": self._beat}
        records = f"/api/collections/{CANARY}/records"
        fields = [{"name": "beat", "type": "number"}]
        collection = {"name": CANARY, "type": "base", "fields": fields}
        try:
            if await self._status("PATCH", f"{records}/{RECORD}", beat) != 404:
                return "touched"
            # Either may be there already: the collection without its record, or both, made by another worker just now.
            await self._status("POST", "/api/collections", collection)
            await self._status("POST", records, {"id": RECORD, **beat})
            missing = await self._status("PATCH", f"{records}/{RECORD}", beat) == 404
        except RequestRefused as error:
            return "away" if error.status >= 500 else "refused"
        except HaptaError:
            return "away"
        return "refused" if missing else "touched"

    async def _status(self, method: str, path: str, body: Json) -> int:
        """What came of a request; 404 and 400 are answers here.

        Raises:
            RequestRefused: anything else.
        """
        try:
            await self._superuser.request(method, path, body)
        except RequestRefused as error:
            if error.status not in ((404,) if method == "PATCH" else (400,)):
                raise
            return error.status
        return 200
