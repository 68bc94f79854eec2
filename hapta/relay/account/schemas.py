"""Wire types of the account's own routes (contract relay, sections 9.1 and 9.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from hapta.http.validate import MAX_SAFE_INTEGER, Wire
from hapta.relay.account.models import RequestPermission, Visibility

MAX_SETTINGS_CHARACTERS = 1_000_000

Username = Annotated[
    str,
    # The look-ahead stands for the end of the text: `$` alone would let a line feed pass.
    msgspec.Meta(min_length=3, max_length=50, pattern=r"^[A-Za-z0-9_-]+(?![\s\S])"),
]


class ProfileChange(Wire, frozen=True):
    """What is left out stays; null clears what may be empty, and else means the same as left out."""

    first_name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    last_name: Annotated[str, msgspec.Meta(max_length=100)] | UnsetType | None = UNSET
    username: Username | None = None
    bio: Annotated[str, msgspec.Meta(max_length=500)] | UnsetType | None = UNSET


class ProfileAnswer(Wire, frozen=True):
    id: str
    timestamp: int
    first_name: str | None
    last_name: str | None
    username: str | None
    avatar: Mapping[str, Any] | None
    bio: str | None
    github: Mapping[str, Any] | None
    connected_services: Sequence[str]


class ProfileChanged(Wire, frozen=True):
    success: Literal[True]
    profile: ProfileAnswer


class SettingsAnswer(Wire, frozen=True):
    settings: str | None
    settings_version: int


class SettingsChange(Wire, frozen=True):
    settings: Annotated[str, msgspec.Meta(max_length=MAX_SETTINGS_CHARACTERS)] | None
    expected_version: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]


class SettingsChanged(Wire, frozen=True, omit_defaults=True):
    """Also of a write that came too late: then with what stands there."""

    success: bool
    version: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    current_version: int | UnsetType = UNSET
    current_settings: str | UnsetType | None = UNSET


class PrivacyChange(Wire, frozen=True):
    show_online_status: bool | None = None
    profile_visibility: Visibility | None = None
    friend_request_permission: RequestPermission | None = None


class PrivacyAnswer(Wire, frozen=True):
    show_online_status: bool
    profile_visibility: Visibility
    friend_request_permission: RequestPermission
