"""Whether a server has a gateway. Apart from the rest of it, so that a server without one does not even load it."""

from __future__ import annotations

from hapta.settings import Settings


def is_wanted(settings: Settings, *, installed: bool) -> bool:
    """Whether this server has a gateway.

    Args:
        installed: whether a program of PocketBase is there to be started.
    """
    own = settings.gateway
    if settings.server.role == "auth":
        return False
    if own.enabled != "auto":
        return own.enabled == "on"
    # Several workers would mind one PocketBase among them; whoever runs so many names the one that they share.
    return bool(own.db_url) or (installed and settings.server.workers == 1)
