"""Which of two JSON shapes an answer takes: lists of machines and artifacts differ between the two families of clients.

Clients of one family name themselves in `X-Happy-Client` and want bare arrays and objects; those of the other do not, and want
them under a name (contract relay, section 0). `relay.client_shape` settles it for good where only one family is served.
"""

from __future__ import annotations

from hapta.http.requests import Request
from hapta.settings.relay import RelaySettings


def wants_bare(request: Request, settings: RelaySettings) -> bool:
    """Whether the answer is a bare array or object, and not one under a name."""
    if settings.client_shape != "auto":
        return settings.client_shape == "bare"
    return request.raw_header(b"x-happy-client") is not None
