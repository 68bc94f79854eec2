"""Socket events of artifacts and their acknowledgements (contract relay, section 14.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from hapta.relay.artifacts.errors import ArtifactIdTaken, ArtifactLimit
from hapta.relay.artifacts.models import Artifact, Edit
from hapta.relay.artifacts.schemas import ArtifactFull, BodyEdit, HeaderEdit, NewArtifactRequest, OneEvent
from hapta.relay.artifacts.service import Artifacts
from hapta.relay.encodings import decoded, encoded
from hapta.relay.errors import ArtifactNotFound
from hapta.relay.events import Ack, EventTable, Sender
from hapta.relay.payloads import payload

INVALID = {"result": "error", "message": "Invalid parameters"}
NOT_FOUND = {"result": "error", "message": ArtifactNotFound.message}


def events(artifacts: Artifacts) -> EventTable:
    """The events, by name."""
    api = ArtifactEvents(artifacts)
    return {
        "artifact-read": api.read,
        "artifact-create": api.create,
        "artifact-update": api.update,
        "artifact-delete": api.delete,
    }


class ArtifactEvents:
    """Handlers of the events."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def read(self, sender: Sender, data: Any) -> Ack:
        event = payload(data, OneEvent)
        if event is None:
            return INVALID
        try:
            return _told(await self._artifacts.get(sender.account_id, event.artifact_id))
        except ArtifactNotFound:
            return NOT_FOUND

    async def create(self, sender: Sender, data: Any) -> Ack:
        event = payload(data, NewArtifactRequest)
        if event is None:
            return INVALID
        try:
            return _told(await self._artifacts.create(sender.account_id, event.value()))
        except (ArtifactIdTaken, ArtifactLimit) as error:
            return {"result": "error", "message": error.message}

    async def update(self, sender: Sender, data: Any) -> Ack:
        event = payload(data, OneEvent)
        if event is None:
            return INVALID
        members = cast(Mapping[str, Any], data)
        header = body = None
        if members.get("header") is not None:
            given = payload(members["header"], HeaderEdit)
            if given is None:
                return {"result": "error", "message": "Invalid header parameters"}
            header = Edit(decoded(given.data), given.expected_version)
        if members.get("body") is not None:
            given = payload(members["body"], BodyEdit)
            if given is None:
                return {"result": "error", "message": "Invalid body parameters"}
            body = Edit(decoded(given.data), given.expected_version)
        if header is None and body is None:
            return {"result": "error", "message": "No updates provided"}
        return await self._edit(sender.account_id, event.artifact_id, header, body)

    async def _edit(self, account_id: str, artifact_id: str, header: Edit | None, body: Edit | None) -> Ack:
        try:
            edited = await self._artifacts.edit(account_id, artifact_id, header=header, body=body)
        except ArtifactNotFound:
            return NOT_FOUND
        current = edited.current
        ack: dict[str, object] = {"result": "success" if current is None else "version-mismatch"}
        if header is not None:
            if current is None:
                ack["header"] = {"version": edited.header_version, "data": encoded(header.value)}
            elif header.expected != current.header_version:
                ack["header"] = {"currentVersion": current.header_version, "currentData": encoded(current.header)}
        if body is not None:
            if current is None:
                ack["body"] = {"version": edited.body_version, "data": encoded(body.value)}
            elif body.expected != current.body_version:
                ack["body"] = {"currentVersion": current.body_version, "currentData": encoded(current.body)}
        return ack

    async def delete(self, sender: Sender, data: Any) -> Ack:
        event = payload(data, OneEvent)
        if event is None:
            return INVALID
        try:
            await self._artifacts.delete(sender.account_id, event.artifact_id)
        except ArtifactNotFound:
            return NOT_FOUND
        return {"result": "success"}


def _told(artifact: Artifact) -> Ack:
    return {"result": "success", "artifact": ArtifactFull.of(artifact)}
