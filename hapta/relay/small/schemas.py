"""Wire types of the small answers (contract relay, sections 10 and 16; relay-native, section 2.23)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from hapta.http.validate import MAX_SAFE_INTEGER, Wire
from hapta.kit.errors import Issue

MAX_MESSAGE_CHARACTERS = 50 * 1024
MAX_RAW_OBJECT_BYTES = 100 * 1024

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]
Short = Annotated[str, msgspec.Meta(max_length=256)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class VersionRequest(Wire, frozen=True):
    platform: Annotated[str, msgspec.Meta(max_length=64)]
    version: Annotated[str, msgspec.Meta(max_length=256)]
    app_id: Annotated[str, msgspec.Meta(max_length=256)] = msgspec.field(name="app_id")


class VersionAnswer(Wire, frozen=True):
    update_url: str | None


class DebugEntry(Wire, frozen=True):
    """One line of a log, as an app sends it."""

    timestamp: Short | float
    level: Annotated[str, msgspec.Meta(max_length=32)]
    message: Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE_CHARACTERS)]
    source: Literal["mobile", "cli"]
    message_raw_object: Any = None
    platform: Short | None = None

    def issues(self) -> list[Issue]:
        if len(msgspec.json.encode(self.message_raw_object)) > MAX_RAW_OBJECT_BYTES:
            return [Issue(("messageRawObject",), f"Must have at most {MAX_RAW_OBJECT_BYTES} bytes")]
        return []


class DoneAnswer(Wire, frozen=True):
    success: Literal[True]


class SyncMetrics(Wire, frozen=True):
    type: Literal["messages", "profile", "artifacts"]
    mode: Literal["full", "incremental", "cached"]
    bytes_received: Count
    items_received: Count
    items_skipped: Count
    duration_ms: Count
    session_id: Short | None = None
    cache_status: Literal["hit", "miss"] | None = None


class TypeCount(Wire, frozen=True):
    type_name: Short
    count: Count


class ValidationMetrics(Wire, frozen=True):
    schema_failures: Count
    unknown_types: Count
    strict_validation_failures: Count
    session_duration_ms: Count
    unknown_type_breakdown: Annotated[list[TypeCount], msgspec.Meta(max_length=1000)]
    first_failure_at: Count | None = None
    last_failure_at: Count | None = None


class RestoreMetrics(Wire, frozen=True):
    session_id: Id
    machine_id: Id
    success: bool
    timed_out: bool
    duration_ms: Count
    new_session_id: Short | None = None


class BuildMetrics(Wire, frozen=True):
    platform: Literal["ios", "android", "web"]
    branch: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    commit_hash: Annotated[str, msgspec.Meta(min_length=7, max_length=40)]
    js_bundle_size: Count
    assets_size: Count
    total_size: Count
    build_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    pr_number: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)] | None = None


class DroppedAnswer(Wire, frozen=True, omit_defaults=True):
    """The numbers were well-formed, and nobody keeps them."""

    success: Literal[True]
    warning: str
    ingested: bool | UnsetType = UNSET
    data_points_written: int | UnsetType = UNSET


class HealthAnswer(Wire, frozen=True):
    status: str
    timestamp: str
    version: str
    service: str


class ReadyAnswer(Wire, frozen=True, omit_defaults=True):
    ready: bool
    checks: Mapping[str, bool]
    timestamp: str
    error: str | UnsetType = UNSET


class MessagesHealthAnswer(Wire, frozen=True, omit_defaults=True):
    status: Literal["healthy", "unhealthy"]
    checks: Mapping[str, Literal["ok", "error"]]
    timestamp: str
    latency_ms: int
    error: str | UnsetType = UNSET
