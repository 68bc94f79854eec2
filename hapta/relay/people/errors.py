"""What the routes of people refuse (contract relay, sections 9.2 and 9.3; relay-native, section 2.12)."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Forbidden, NotFound


class UserNotFound(NotFound):
    """There is no such account, or it is not the caller's to see."""

    code = "user_not_found"
    message = "User not found"


class NotAccepting(Forbidden):
    """The other takes no requests."""

    code = "friend_requests_off"
    message = "User is not accepting friend requests"


class FriendsOfFriendsOnly(Forbidden):
    """The other takes requests of friends' friends, and the two have no friend in common."""

    code = "friends_of_friends_only"
    message = "User only accepts friend requests from friends of friends"


class TooManyFriends(Conflict):
    """The account has as many friends and open requests as it may have."""

    code = "too_many_friends"
    message = "Too many friends and requests"
