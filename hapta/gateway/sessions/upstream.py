"""Exchanges kept tokens with PocketBase, with the record's own token and nobody else's (contract gateway, B.2, point 6)."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from hapta.gateway.errors import UpstreamAway, UpstreamBroken
from hapta.gateway.models import Answer
from hapta.gateway.sessions.models import Refreshed
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.upstream.paths import target


class PocketBaseAuth:
    """The `UpstreamAuth` of a real PocketBase."""

    def __init__(self, pb: PocketBase) -> None:
        self._pb = pb

    async def refresh(self, collection_id: str, token: str) -> Refreshed:
        """See `UpstreamAuth.refresh`."""
        path = target(("api", "collections", collection_id, "auth-refresh"))
        answer = await self._pb.send("POST", path, token=token)
        if answer.status == 429 or answer.status >= 500:
            raise UpstreamAway
        if answer.status != 200:
            return Refreshed(answer.status)
        found = signed_in(answer)
        return Refreshed(200, found["token"], found["record"])


def signed_in(answer: Answer) -> dict[str, Any]:
    """What PocketBase says to somebody whom it lets in: an object with `token`, `record`, and `meta` after an OAuth2 login.

    Raises:
        UpstreamBroken: it says something else, of which nothing may go on, since a token may be in it.
    """
    try:
        found = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UpstreamBroken from error
    record = found.get("record")
    if not isinstance(found.get("token"), str) or not isinstance(record, dict):
        raise UpstreamBroken
    names = cast("dict[str, Any]", record)
    if not isinstance(names.get("id"), str) or not isinstance(names.get("collectionId"), str):
        raise UpstreamBroken
    return found
