"""Wire types of access keys (contract relay, section 7)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hapta.http.validate import Wire
from hapta.relay.access_keys.models import AccessKey

Data = Annotated[str, msgspec.Meta(min_length=1, max_length=500_000, description="Encrypted by the client")]


class CreateAccessKey(Wire, frozen=True):
    data: Data


class ChangeAccessKey(Wire, frozen=True):
    data: Data
    expected_version: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class GetAccessKey(Wire, frozen=True):
    """The event `access-key-get`."""

    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    machine_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class AccessKeyItem(Wire, frozen=True):
    data: str
    data_version: int
    created_at: int
    updated_at: int


class FoundAnswer(Wire, frozen=True):
    access_key: AccessKeyItem | None


class CreatedAnswer(Wire, frozen=True):
    success: bool
    access_key: AccessKeyItem


class ChangedAnswer(Wire, frozen=True, omit_defaults=True):
    """Either the new version, or what holds instead of the expected one."""

    success: bool
    version: int | None = None
    error: Literal["version-mismatch"] | None = None
    current_version: int | None = None
    current_data: str | None = None


def item(key: AccessKey) -> AccessKeyItem:
    """A key on the wire."""
    return AccessKeyItem(
        data=key.data, data_version=key.data_version, created_at=key.created_at, updated_at=key.updated_at
    )
