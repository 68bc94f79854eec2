"""Inner types of people as others see them, and the status of two people towards each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hapta.relay.account.models import RequestPermission, Visibility

Status = Literal["none", "requested", "pending", "friend", "rejected"]
"""One person's status towards another: `requested`: I asked; `pending`: I was asked; `rejected`: I took it back."""

Exists = Callable[[str], Awaitable[bool]]
"""Whether an account of this id is there and not switched off."""


async def nobody(account_id: str, /) -> bool:
    """Where nobody is known."""
    return False


class Seen(NamedTuple):
    """An account as another one finds it.

    Args:
        mine: the other one's status towards it.
        theirs: its status towards the other one.
        github_login: the name it has at GitHub, when it has none here.
    """

    id: str
    first_name: str | None
    last_name: str | None
    username: str | None
    bio: str | None
    visibility: Visibility
    permission: RequestPermission
    mine: Status
    theirs: Status
    github_login: str

    @property
    def is_visible(self) -> bool:
        """Whether more than the username may be shown: a profile for friends is one for whom its owner asked to be a friend, too."""
        return self.visibility == "public" or self.mine in ("friend", "pending")


@dataclass(frozen=True, slots=True)
class Person:
    """An account as it is shown to another one: every text that clients demand is there."""

    id: str
    first_name: str
    last_name: str | None
    username: str
    bio: str | None
    avatar: Mapping[str, Any] | None
    status: Status


class Relation(NamedTuple):
    """A row of one side: what is needed to judge a change."""

    status: Status = "none"
    last_notified_at: int | None = None


class Change(NamedTuple):
    """What adding or removing does to both sides.

    Args:
        mine, theirs: the new statuses.
    """

    mine: Status
    theirs: Status


def added(mine: Status, theirs: Status) -> Change:
    """What becomes of two statuses when I add the other (contract relay, section 9.3)."""
    if theirs == "requested":
        return Change("friend", "friend")
    if mine in ("none", "rejected"):
        return Change("requested", "pending" if theirs == "none" else theirs)
    return Change(mine, theirs)


def removed(mine: Status, theirs: Status) -> Change:
    """What becomes of them when I remove the other: a friend is left as one who still asks."""
    if mine == "requested":
        return Change("rejected", theirs)
    if mine == "friend":
        return Change("pending", "requested")
    if mine == "pending":
        return Change("none", theirs if theirs == "rejected" else "none")
    return Change(mine, theirs)
