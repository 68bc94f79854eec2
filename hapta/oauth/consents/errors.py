"""What goes wrong with consents."""

from __future__ import annotations

from hapta.kit.errors import NotFound


class GrantNotFound(NotFound):
    """The person has allowed this app nothing."""

    message = "There is no such grant"
