"""Wire types of people and friends (contract relay, sections 9.2 and 9.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from hapta.http.validate import Wire
from hapta.relay.people.models import Status

Query = Annotated[str, msgspec.Meta(min_length=1, max_length=100, description="Beginning of a username, in any case")]


class SearchQuery(Wire, frozen=True):
    query: Query
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10


class FriendRequest(Wire, frozen=True):
    uid: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class UserWire(Wire, frozen=True):
    """Every text that the apps' schemas demand is there, empty at worst."""

    id: str
    first_name: str
    last_name: str | None
    username: str
    avatar: Mapping[str, Any] | None
    bio: str | None
    status: Status


class UserAnswer(Wire, frozen=True):
    user: UserWire


class ChangedUserAnswer(Wire, frozen=True):
    user: UserWire | None


class UsersAnswer(Wire, frozen=True):
    users: list[UserWire]


class FriendsAnswer(Wire, frozen=True):
    friends: list[UserWire]
