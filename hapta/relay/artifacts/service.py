"""Artifacts: made once under an id of the client's choice, then changed by compare-and-set, both parts or none of them."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.artifacts import store
from hapta.relay.artifacts.errors import ArtifactIdTaken, ArtifactLimit
from hapta.relay.artifacts.models import Artifact, ArtifactHeader, Edit, Edited, NewArtifact
from hapta.relay.encodings import encoded
from hapta.relay.errors import ArtifactNotFound
from hapta.relay.models import USERS, Update
from hapta.relay.ports import Teller
from hapta.relay.updates import heads
from hapta.relay.updates.heads import Heads
from hapta.relay.updates.since import Change, bury
from hapta.settings.relay import RelaySettings

MAX_LISTED_BYTES = 16 * 1024 * 1024
"""Headers of one list, together; real ones hold a title."""


class Artifacts:
    """The use cases of artifacts."""

    def __init__(self, db: Database, heads: Heads, updates: Teller, clock: Clock, settings: RelaySettings) -> None:
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._settings = settings

    async def list_latest(
        self, account_id: str, *, since: int = 0, limit: int | None = None
    ) -> tuple[list[ArtifactHeader], int]:
        """Headers, the latest change first, and the number of the account's last update.

        Args:
            since: number of an update that the client knows; one that the account has not reached counts as 0.
            limit: None: as many as an account may have, as far as they fit into `MAX_LISTED_BYTES`.
        """
        most = self._settings.max_artifacts_per_account if limit is None else limit

        async def body(tx: ReadTx) -> tuple[list[ArtifactHeader], int]:
            head = (await heads.seqs(tx, [account_id]))[account_id]
            after = since if since <= head else 0
            return await store.list_latest(tx, account_id, after, most, MAX_LISTED_BYTES), head

        return await self._db.read(body)

    async def get(self, account_id: str, artifact_id: str) -> Artifact:
        """One artifact with its body.

        Raises:
            ArtifactNotFound: the account has no such artifact.
        """
        artifact = await self._db.read(lambda tx: store.find(tx, account_id, artifact_id), snapshot=False)
        if artifact is None:
            raise ArtifactNotFound
        return artifact

    async def create(self, account_id: str, new: NewArtifact) -> Artifact:
        """The artifact of that id: as it is, or made now.

        Raises:
            ArtifactIdTaken: another account has one of that id.
            ArtifactLimit: the account has too many.
        """
        artifact, updates = await self._db.write(lambda tx: self._create(tx, account_id, new))
        await self._updates.announce(updates)
        return artifact

    async def _create(self, tx: WriteTx, account_id: str, new: NewArtifact) -> tuple[Artifact, Sequence[Update]]:
        head = await self._heads.locked(tx, account_id)
        known = await store.find(tx, account_id, new.id)
        if known is not None:
            return known, []
        if await store.count(tx, account_id) >= self._settings.max_artifacts_per_account:
            raise ArtifactLimit
        now_ms = self._clock.now_ms()
        artifact = Artifact(
            account_id=account_id,
            id=new.id,
            header=new.header,
            header_version=1,
            body=new.body,
            body_version=1,
            data_encryption_key=new.data_encryption_key,
            seq=0,
            changed_seq=head.seq + 1,
            created_seq=head.seq + 1,
            created_at=now_ms,
            updated_at=now_ms,
        )
        if not await store.insert(tx, artifact):
            raise ArtifactIdTaken
        head.add(artifact.as_new(), USERS)
        await head.save(tx)
        return artifact, head.updates

    async def edit(
        self, account_id: str, artifact_id: str, *, header: Edit | None = None, body: Edit | None = None
    ) -> Edited:
        """Writes what is given if all of it replaces the version that the writer knows; otherwise nothing.

        Raises:
            ArtifactNotFound: the account has no such artifact.
        """
        edited, updates = await self._db.write(lambda tx: self._edit(tx, account_id, artifact_id, header, body))
        await self._updates.announce(updates)
        return edited

    async def _edit(
        self, tx: WriteTx, account_id: str, artifact_id: str, header: Edit | None, body: Edit | None
    ) -> tuple[Edited, Sequence[Update]]:
        if header is None and body is None:
            if not await store.exists(tx, account_id, artifact_id):
                raise ArtifactNotFound
            return Edited(), []
        head = await self._heads.locked(tx, account_id)
        versions = await store.compare_and_set(
            tx, account_id, artifact_id, header, body, head.seq + 1, self._clock.now_ms()
        )
        if versions is None:
            current = await store.find(tx, account_id, artifact_id)
            if current is None:
                raise ArtifactNotFound
            return Edited(current=current), []
        told: dict[str, object] = {"t": "update-artifact", "artifactId": artifact_id}
        if header is not None:
            told["header"] = {"value": encoded(header.value), "version": versions[0]}
        if body is not None:
            told["body"] = {"value": encoded(body.value), "version": versions[1]}
        head.add(told, USERS)
        await head.save(tx)
        edited = Edited(None if header is None else versions[0], None if body is None else versions[1])
        return edited, head.updates

    async def delete(self, account_id: str, artifact_id: str) -> None:
        """Removes an artifact.

        Raises:
            ArtifactNotFound: the account has no such artifact.
        """

        async def body(tx: WriteTx) -> Sequence[Update]:
            head = await self._heads.locked(tx, account_id)
            if not await store.delete(tx, account_id, artifact_id):
                raise ArtifactNotFound
            update = head.add({"t": "delete-artifact", "artifactId": artifact_id}, USERS)
            await bury(tx, account_id, update.seq, "artifact", artifact_id, self._clock.now_ms())
            await head.save(tx)
            return head.updates

        await self._updates.announce(await self._db.write(body))

    # -- for other parts, in their transactions ----------------------------------------------------------------------------

    async def changed_since(self, tx: ReadTx, account_id: str, seq: int, limit: int) -> list[Change]:
        """Artifacts that were changed after an update, for clients that were away."""
        return [
            Change(
                artifact.changed_seq,
                artifact.updated_at,
                artifact.as_changed(),
                artifact.as_new(),
                artifact.created_seq,
            )
            for artifact in await store.changed_since(tx, account_id, seq, limit)
        ]


async def purge(tx: WriteTx, account_id: str) -> None:
    """Deletes all of an account."""
    await store.purge(tx, account_id)
