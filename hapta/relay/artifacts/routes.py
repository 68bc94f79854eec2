"""Routes of artifacts: decode, call, encode (contract relay, section 6)."""

from __future__ import annotations

import msgspec

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.artifacts.errors import ArtifactIdTaken, ArtifactLimit
from hapta.relay.artifacts.models import Artifact, Edit
from hapta.relay.artifacts.schemas import (
    MAX_BODY_BYTES,
    ArtifactAnswer,
    ArtifactFull,
    ArtifactInfo,
    ArtifactsAnswer,
    ArtifactsQuery,
    Done,
    EditAnswer,
    EditRequest,
    NewArtifactRequest,
)
from hapta.relay.artifacts.service import Artifacts
from hapta.relay.encodings import decoded
from hapta.relay.errors import ArtifactNotFound
from hapta.relay.shapes import wants_bare
from hapta.settings.relay import RelaySettings

_encode = msgspec.json.Encoder().encode


def routes(artifacts: Artifacts, settings: RelaySettings) -> list[Endpoint]:
    """The URL table of artifacts."""
    api = ArtifactsApi(artifacts, settings)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="artifacts", max_body_bytes=MAX_BODY_BYTES)
    return [
        table.get(
            "/v1/artifacts",
            api.list_latest,
            summary="Headers of the account's artifacts, the latest change first",
            answers={200: ArtifactsAnswer},
        ),
        table.post(
            "/v1/artifacts",
            api.create,
            summary="Make an artifact; one that is known is answered as it is",
            answers={200: ArtifactAnswer},
            errors=[ArtifactIdTaken, ArtifactLimit],
        ),
        table.get(
            "/v1/artifacts/{artifactId}",
            api.get,
            summary="One artifact with its body",
            answers={200: ArtifactAnswer},
            errors=[ArtifactNotFound],
        ),
        table.post(
            "/v1/artifacts/{artifactId}",
            api.edit,
            summary="Change header and body, or what is given of them, if their versions are the expected ones",
            answers={200: EditAnswer},
            errors=[ArtifactNotFound],
        ),
        table.delete(
            "/v1/artifacts/{artifactId}",
            api.delete,
            summary="Delete an artifact",
            answers={200: Done},
            errors=[ArtifactNotFound],
        ),
    ]


class ArtifactsApi:
    """Handlers of artifacts."""

    def __init__(self, artifacts: Artifacts, settings: RelaySettings) -> None:
        self._artifacts = artifacts
        self._settings = settings

    async def list_latest(self, caller: Caller, request: Request, query: ArtifactsQuery) -> ArtifactsAnswer | Reply:
        found, head = await self._artifacts.list_latest(caller.user_id, since=query.since_seq, limit=query.limit)
        listed = [ArtifactInfo.of(artifact) for artifact in found]
        if wants_bare(request, self._settings):
            return Reply(200, _encode(listed))
        return ArtifactsAnswer(artifacts=listed, max_seq=head)

    async def create(self, caller: Caller, request: Request, body: NewArtifactRequest) -> ArtifactFull:
        return self._one(request, await self._artifacts.create(caller.user_id, body.value()))

    async def get(self, caller: Caller, request: Request, artifactId: str) -> ArtifactFull:
        return self._one(request, await self._artifacts.get(caller.user_id, artifactId))

    async def edit(self, caller: Caller, body: EditRequest, artifactId: str) -> EditAnswer:
        header = _edit(body.header, body.expected_header_version)
        content = _edit(body.body, body.expected_body_version)
        edited = await self._artifacts.edit(caller.user_id, artifactId, header=header, body=content)
        return EditAnswer.of(edited, header, content)

    async def delete(self, caller: Caller, artifactId: str) -> Done:
        await self._artifacts.delete(caller.user_id, artifactId)
        return Done()

    def _one(self, request: Request, artifact: Artifact) -> ArtifactFull:
        full = ArtifactFull.of(artifact)
        return full if wants_bare(request, self._settings) else ArtifactAnswer.wrapped(full)


def _edit(text: str | None, expected: int | None) -> Edit | None:
    return None if text is None or expected is None else Edit(decoded(text), expected)
