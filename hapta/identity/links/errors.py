"""What links refuse."""

from __future__ import annotations

from hapta.kit.errors import Conflict, NotFound


class LinkNotFound(NotFound):
    """The account has no such link."""

    code = "link_not_found"
    message = "There is no such link"


class LinkTaken(Conflict):
    """The name elsewhere belongs to another account here. Told only to whoever proved that the name is theirs."""

    code = "link_taken"
    message = "This is connected to another account already"


class LastWayIn(Conflict):
    """Without this link nobody could sign in to the account any more."""

    code = "last_way_in"
    message = "This is the only way to sign in to your account. Add another one first"
