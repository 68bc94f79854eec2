"""The secrets of receivers, sealed at rest, each bound to its own receiver's row."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hapta.identity.webhooks.models import Webhook
from hapta.kit.seal import Sealer


class WebhookSecrets:
    """Seals and opens. `open...` raise BadSeal for rows that were changed or sealed under a forgotten key."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, webhook_id: str, secret: str) -> bytes:
        return self._sealer.seal(secret.encode(), _secret_of(webhook_id))

    def seal_key(self, webhook_id: str, key: Ed25519PrivateKey) -> bytes:
        return self._sealer.seal(key.private_bytes_raw(), _key_of(webhook_id))

    def live(self, webhook: Webhook, now: int) -> list[str]:
        """The secrets that sign now: the present one, and the former one while it is being replaced."""
        sealed = [webhook.secret]
        if webhook.previous_secret is not None and (webhook.previous_until or 0) > now:
            sealed.append(webhook.previous_secret)
        return [self._sealer.open(one, _secret_of(webhook.id)).decode() for one in sealed]

    def open_key(self, webhook: Webhook) -> Ed25519PrivateKey | None:
        if webhook.signing_key is None:
            return None
        return Ed25519PrivateKey.from_private_bytes(self._sealer.open(webhook.signing_key, _key_of(webhook.id)))


def _secret_of(webhook_id: str) -> bytes:
    return b"webhook:" + webhook_id.encode()


def _key_of(webhook_id: str) -> bytes:
    return b"webhook-key:" + webhook_id.encode()
