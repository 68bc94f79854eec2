"""Wire types of artifacts (contract relay, sections 6 and 14.3): base64 outside, bytes inside. Unknown members are ignored."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hapta.http.validate import Uuid, Wire
from hapta.kit.errors import Issue
from hapta.relay.artifacts.models import Artifact, ArtifactHeader, Edit, Edited, NewArtifact
from hapta.relay.encodings import decoded, encoded, is_base64

MAX_BODY_BYTES = 10 * 1024 * 1024

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
# Both together fit into one frame of a socket, as every change goes out in one.
HeaderText = Annotated[str, msgspec.Meta(min_length=1, max_length=500_000, description="Base64")]
BodyText = Annotated[str, msgspec.Meta(min_length=1, max_length=1_500_000, description="Base64")]
KeyText = Annotated[str, msgspec.Meta(min_length=1, max_length=1024, description="Base64")]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


def _bad_base64(**texts: str | None) -> list[Issue]:
    return [
        Issue((name,), "Must be base64") for name, text in texts.items() if text is not None and not is_base64(text)
    ]


class NewArtifactRequest(Wire, frozen=True):
    id: Uuid
    header: HeaderText
    body: BodyText
    data_encryption_key: KeyText

    def issues(self) -> list[Issue]:
        return _bad_base64(header=self.header, body=self.body, dataEncryptionKey=self.data_encryption_key)

    def value(self) -> NewArtifact:
        return NewArtifact(self.id, decoded(self.header), decoded(self.body), decoded(self.data_encryption_key))


class EditRequest(Wire, frozen=True):
    """A part without its expected version is ignored."""

    header: HeaderText | None = None
    expected_header_version: Version | None = None
    body: BodyText | None = None
    expected_body_version: Version | None = None

    def issues(self) -> list[Issue]:
        return _bad_base64(header=self.header, body=self.body)


class ArtifactsQuery(Wire, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    since_seq: Version = 0


class ArtifactInfo(Wire, frozen=True):
    id: str
    header: str
    header_version: int
    data_encryption_key: str
    seq: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, artifact: ArtifactHeader) -> ArtifactInfo:
        return cls(
            id=artifact.id,
            header=encoded(artifact.header),
            header_version=artifact.header_version,
            data_encryption_key=encoded(artifact.data_encryption_key),
            seq=artifact.seq,
            created_at=artifact.created_at,
            updated_at=artifact.updated_at,
        )


class ArtifactFull(Wire, frozen=True):
    id: str
    header: str
    header_version: int
    body: str
    body_version: int
    data_encryption_key: str
    seq: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactFull:
        return cls(
            id=artifact.id,
            header=encoded(artifact.header),
            header_version=artifact.header_version,
            body=encoded(artifact.body),
            body_version=artifact.body_version,
            data_encryption_key=encoded(artifact.data_encryption_key),
            seq=artifact.seq,
            created_at=artifact.created_at,
            updated_at=artifact.updated_at,
        )


class ArtifactAnswer(ArtifactFull, frozen=True):
    """An artifact bare and under its name at once: one app reads it bare although its server wrapped it (section 0).

    Clients that name themselves in `X-Happy-Client` get it bare only.
    """

    artifact: ArtifactFull

    @classmethod
    def wrapped(cls, full: ArtifactFull) -> ArtifactAnswer:
        return cls(artifact=full, **msgspec.structs.asdict(full))


class ArtifactsAnswer(Wire, frozen=True):
    """`maxSeq` is the number of the account's last update: what to send as `sinceSeq` next time.

    Clients that name themselves in `X-Happy-Client` get the bare array.
    """

    artifacts: list[ArtifactInfo]
    max_seq: int


class EditAnswer(Wire, frozen=True, omit_defaults=True):
    """A success names the new versions; a mismatch what is there, of the parts that did not match."""

    success: bool
    header_version: int | None = None
    body_version: int | None = None
    error: Literal["version-mismatch"] | None = None
    current_header_version: int | None = None
    current_header: str | None = None
    current_body_version: int | None = None
    current_body: str | None = None

    @classmethod
    def of(cls, edited: Edited, header: Edit | None, body: Edit | None) -> EditAnswer:
        current = edited.current
        if current is None:
            return cls(success=True, header_version=edited.header_version, body_version=edited.body_version)
        stale_header = header is not None and header.expected != current.header_version
        stale_body = body is not None and body.expected != current.body_version
        return cls(
            success=False,
            error="version-mismatch",
            current_header_version=current.header_version if stale_header else None,
            current_header=encoded(current.header) if stale_header else None,
            current_body_version=current.body_version if stale_body else None,
            current_body=encoded(current.body) if stale_body else None,
        )


class Done(Wire, frozen=True):
    success: bool = True


# -- socket events -----------------------------------------------------------------------------------------------------


class OneEvent(Wire, frozen=True):
    artifact_id: Id


class HeaderEdit(Wire, frozen=True):
    data: HeaderText
    expected_version: Version

    def issues(self) -> list[Issue]:
        return _bad_base64(data=self.data)


class BodyEdit(Wire, frozen=True):
    data: BodyText
    expected_version: Version

    def issues(self) -> list[Issue]:
        return _bad_base64(data=self.data)
