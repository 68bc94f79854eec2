"""Resource indicators (RFC 8707): which services a token may be for, and so its `aud`.

The issuer itself is always a resource; further ones come from the settings and from a client's own registration.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from hapta.oauth.errors import InvalidTarget
from hapta.oauth.issuer import Issuer
from hapta.oauth.models import Client

MAX_RESOURCES = 16


def check(uri: str) -> None:
    """Refuses what cannot name a resource: it is an absolute URI without fragment (RFC 8707, section 2).

    Raises:
        InvalidTarget: another form.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InvalidTarget("A resource is an absolute URI") from None
    if "#" in uri or not parts.scheme or not (parts.netloc or parts.path) or not uri.isascii() or " " in uri:
        raise InvalidTarget("A resource is an absolute URI without fragment")


class Resources:
    """The resources of this server.

    Args:
        issuer: always one of them, and what tokens are for when nobody says otherwise.
        further: from the settings.
    """

    def __init__(self, issuer: Issuer, further: Sequence[str] = ()) -> None:
        for uri in further:
            check(uri)
        self._issuer = issuer.url
        self.known = (issuer.url, *further)

    def allowed(self, client: Client) -> tuple[str, ...]:
        """All that a client may ask for: its own list, or every known resource when it registered none."""
        return client.resources or self.known

    def default(self, client: Client) -> str:
        """What a client's tokens are for when the request names nothing: its first resource, else the issuer."""
        return client.resources[0] if client.resources else self._issuer

    def granted(self, client: Client, requested: Sequence[str]) -> tuple[str, ...]:
        """What an authorization is for.

        Args:
            requested: the values of `resource`, in order; none means the default.

        Raises:
            InvalidTarget: one of them is unknown or not this client's, byte for byte.
        """
        if not requested:
            return (self.default(client),)
        if len(requested) > MAX_RESOURCES:
            raise InvalidTarget(f"There are more than {MAX_RESOURCES} resources")
        allowed = self.allowed(client)
        for uri in requested:
            check(uri)
            if uri not in allowed:
                raise InvalidTarget("The resource is unknown, or not for this client")
        return tuple(dict.fromkeys(requested))

    def narrowed(self, granted: Sequence[str], requested: Sequence[str]) -> tuple[str, ...]:
        """What one token of a grant is for: all of the grant, or the part that the token request names.

        Raises:
            InvalidTarget: it names what was not granted.
        """
        if not requested:
            return tuple(granted)
        if not set(requested) <= set(granted):
            raise InvalidTarget("The resource was not granted")
        return tuple(dict.fromkeys(requested))
