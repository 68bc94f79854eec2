"""Records as a visitor sees them, straight from PocketBase: for hooks that ask, and to tell a refusal from a record out of sight."""

from __future__ import annotations

import msgspec

from hapta.gateway.errors import UpstreamBroken
from hapta.gateway.models import Client, Collection, Visitor
from hapta.gateway.rules.context import Record
from hapta.gateway.upstream.client import PocketBase
from hapta.gateway.upstream.paths import quote_segment

_decoder = msgspec.json.Decoder(dict[str, object])
_HIDDEN = frozenset({400, 401, 403, 404})


class SeenRecords:
    """The port `Records` of rules.

    Args:
        pb: is asked with the visitor's own token, and with the headers that PocketBase's rules may read.
    """

    def __init__(self, pb: PocketBase) -> None:
        self._pb = pb

    async def __call__(self, collection: Collection, record_id: str, visitor: Visitor, client: Client) -> Record | None:
        """The record; None when there is none, or none for this visitor.

        Raises:
            UpstreamAway, UpstreamBroken, UpstreamSlow
        """
        answer = await self._pb.send(
            "GET",
            f"/api/collections/{quote_segment(collection.id)}/records/{quote_segment(record_id)}",
            token=visitor.upstream_token,
            headers=client.forwarded,
            address=client.address,
        )
        if answer.status in _HIDDEN:
            return None
        if answer.status != 200:
            raise UpstreamBroken
        try:
            return _decoder.decode(answer.body)
        except msgspec.DecodeError as error:
            raise UpstreamBroken from error
