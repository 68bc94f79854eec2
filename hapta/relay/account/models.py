"""Inner types of an account as the relay knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

Visibility = Literal["public", "friends-only"]
RequestPermission = Literal["anyone", "friends-of-friends", "none"]


class Account(NamedTuple):
    """A row; an account that was never written to has the defaults."""

    account_id: str
    settings: str | None = None
    settings_version: int = 0
    first_name: str | None = None
    last_name: str | None = None
    username: str | None = None
    bio: str | None = None
    show_online_status: bool = True
    profile_visibility: Visibility = "public"
    friend_request_permission: RequestPermission = "anyone"


@dataclass(frozen=True, slots=True)
class Profile:
    """What an account sees of itself.

    Args:
        github: as GitHub tells it; None: not connected.
    """

    account: Account
    github: Mapping[str, Any] | None
    connected: Sequence[str]
    avatar: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes of names; `UNSET` leaves one as it is."""

    first_name: str | UnsetType = UNSET
    last_name: str | UnsetType | None = UNSET
    username: str | UnsetType = UNSET
    bio: str | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class Preferences:
    """The settings of the account's apps: sealed by them, opaque here."""

    value: str | None
    version: int


@dataclass(frozen=True, slots=True)
class SettingsWrite:
    """What became of a write of settings: the new state, or the one that stood in its way."""

    written: bool
    now: Preferences


@dataclass(frozen=True, slots=True)
class Privacy:
    """What others may see and do."""

    show_online_status: bool = True
    profile_visibility: Visibility = "public"
    friend_request_permission: RequestPermission = "anyone"


@dataclass(frozen=True, slots=True)
class PrivacyEdits:
    """Changes of privacy; None leaves one as it is."""

    show_online_status: bool | None = None
    profile_visibility: Visibility | None = None
    friend_request_permission: RequestPermission | None = None


class GithubProfile(msgspec.Struct, frozen=True):
    """What the relay reads of a profile of GitHub; the rest is kept as it came."""

    id: int | str
    login: str
    name: str | None = None
    avatar_url: str | None = None
    email: str | None = None
    bio: str | None = None
