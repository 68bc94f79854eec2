"""What this worker believes of heads: how its own last commit left the rows of a stream and its vaults.

A belief spares a push the statements that read those rows under the lock. It is never trusted: the write itself compares every
column that it builds on, in the same statement that takes the lock, and writes nothing where another worker, a clean-up or
an administrator came in between (docs/sync.md, NO-SKIP).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from hapta.sync.models import Push, Stream, Vault

MAX_STREAMS = 10_000
MAX_VAULTS = 16
"""Of one stream: one with more starts over, so that a belief stays small."""
SHARED_COMMITS = 16
"""Commits for which a stream is read again each time once it was found moved: other workers write to it as well."""


class _Belief:
    __slots__ = ("stream", "vaults")

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.vaults: dict[str, Vault] = {}


class Heads:
    """The beliefs of one worker; bounded, the oldest go first."""

    def __init__(self) -> None:
        self._beliefs: OrderedDict[str, _Belief] = OrderedDict()
        self._shared: dict[str, int] = {}

    def of(self, pushes: Sequence[Push]) -> tuple[dict[str, Stream], dict[tuple[str, str], Vault]] | None:
        """Streams and vaults that the pushes build on; None when one of them is unknown, or needs more than these rows."""
        beliefs = self._beliefs
        streams: dict[str, Stream] = {}
        vaults: dict[tuple[str, str], Vault] = {}
        for push in pushes:
            stream_id, vault_id = push.stream_id, push.vault_id
            belief = beliefs.get(stream_id)
            if belief is None or belief.stream is None or push.epochs_used or not push.keys:
                return None
            vault = belief.vaults.get(vault_id)
            if vault is None:
                return None
            streams[stream_id] = belief.stream
            vaults[stream_id, vault_id] = vault
        return streams, vaults

    def knows(self, stream_id: str, vault_id: str) -> bool:
        """Whether anything is believed of this vault."""
        belief = self._beliefs.get(stream_id)
        return belief is not None and belief.stream is not None and vault_id in belief.vaults

    def learn(self, grown: Sequence[tuple[Stream, Vault]]) -> None:
        """Remembers rows as a commit left them; all that was believed of these streams' other vaults stays."""
        for stream, vault in grown:
            if self._shared and self._is_shared(stream.id):
                continue
            belief = self._beliefs.get(stream.id)
            if belief is None:
                belief = self._beliefs[stream.id] = _Belief()
                if len(self._beliefs) > MAX_STREAMS:
                    self._beliefs.popitem(last=False)
            else:
                self._beliefs.move_to_end(stream.id)
            belief.stream = stream
            # Keys of removed logs are looked up before anything is stored: that is not for a single statement.
            if vault.removed_upto:
                belief.vaults.pop(vault.vault_id, None)
                continue
            if len(belief.vaults) >= MAX_VAULTS and vault.vault_id not in belief.vaults:
                belief.vaults.clear()
            belief.vaults[vault.vault_id] = vault

    def _is_shared(self, stream_id: str) -> bool:
        left = self._shared.get(stream_id, 0)
        if left > 1:
            self._shared[stream_id] = left - 1
        else:
            self._shared.pop(stream_id, None)
        return left > 0

    def forget(self, stream_ids: Sequence[str]) -> None:
        """Nothing is believed of these streams until their next commit."""
        for stream_id in stream_ids:
            belief = self._beliefs.get(stream_id)
            if belief is not None:
                belief.stream = None

    def found_moved(self, stream_ids: Sequence[str]) -> None:
        """Others wrote to these streams: for a while it is cheaper to read them than to believe and be wrong."""
        if len(self._shared) > MAX_STREAMS:
            self._shared.clear()
        for stream_id in stream_ids:
            self._shared[stream_id] = SHARED_COMMITS
