"""Messages handed to any provider by HTTP: a POST of the whole message as JSON, signed as Standard Webhooks say.

This is how text messages leave, whatever the vendor. The request itself is made by a callable that the caller hands in, so
that the guard against addresses inside our own network is the one of all outgoing requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from hapta.kit import standard_webhooks
from hapta.kit.clock import Clock, iso_ms
from hapta.mail.sender import Outgoing, Refused, TryLater

Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]
"""`(url, headers, body) -> status`; raises `OSError` or any `HaptaError` when there is no answer."""

RETRIED = frozenset({408, 409, 425, 429})
"""Client errors that pass by themselves."""
CONFIGURATION = frozenset({401, 403, 404, 405})
"""Client errors that the operator can mend; the message is good."""


class WebhookSender:
    """Sends every message to one receiver. Implements `Sender`.

    Args:
        secret: `whsec_...`, which the receiver checks the signature with.
    """

    def __init__(self, url: str, secret: str, clock: Clock, post: Post) -> None:
        standard_webhooks.secret_bytes(secret)  # wrong ones shall be heard of at start, not with the first message
        self._url = url
        self._secret = secret
        self._clock = clock
        self._post = post

    async def send(self, message: Outgoing) -> None:
        """See `Sender.send`."""
        now = self._clock.now()
        event = {"type": "message.send", "timestamp": iso_ms(self._clock.now_ms()), "data": message}
        body = msgspec.json.encode(event)
        headers = {
            "content-type": "application/json",
            **standard_webhooks.headers([self._secret], message.idempotency_key, int(now), body),
        }
        try:
            status = await self._post(self._url, headers, body)
        except Exception as error:  # the boundary to a callable of any make: whatever went wrong, no answer came
            raise TryLater(f"the provider: {type(error).__name__}") from error
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in RETRIED | CONFIGURATION:
            raise Refused(f"the provider answered {status}")
        raise TryLater(f"the provider answered {status}")

    async def close(self) -> None:
        """Nothing is open."""
