"""What the account's routes refuse, in the words that clients know (contract relay, section 9.1)."""

from __future__ import annotations

from hapta.kit.errors import Conflict


class UsernameTaken(Conflict):
    """Somebody else has this name, in this or another case."""

    code = "username_taken"
    message = "username-taken"

    def __init__(self) -> None:
        super().__init__(success=False)
