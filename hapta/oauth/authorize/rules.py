"""The one rule that stands before every redirect: the address is the client's (contract identity, section 6.2)."""

from __future__ import annotations

from hapta.oauth import redirect_uris
from hapta.oauth.authorize.models import Unredirectable
from hapta.oauth.errors import InvalidRequest
from hapta.oauth.models import Client


def check_redirect_uri(client: Client, given: str) -> None:
    """Refuses an address that is not registered; also one that no longer is, since clients change while flows are under way.

    Raises:
        Unredirectable: nobody may be sent there.
    """
    native = client.application_type == "native"
    if redirect_uris.find(client.redirect_uris, given, native=native) is None:
        raise Unredirectable(InvalidRequest("The address to go back to (redirect_uri) is not one of the app's"))
