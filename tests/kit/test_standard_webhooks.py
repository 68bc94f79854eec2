"""Signing and verifying by Standard Webhooks, held against the independent package."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hapta.kit.standard_webhooks import (
    BadWebhook,
    WebhookVerifier,
    headers,
    new_secret,
    public_key_text,
    secret_bytes,
    sign,
)

NOW = 1_900_000_000
BODY = b'{"type":"user.created"}'


class Hour:
    """A clock for the verifier."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def test_a_known_message_has_the_known_signature() -> None:
    """The example of the standard's own libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_both_implementations_agree() -> None:
    secret, at = new_secret(), datetime.now(UTC)
    ours = headers([secret], "msg_1", int(at.timestamp()), BODY)
    assert standardwebhooks.Webhook(secret).verify(BODY, ours) == {"type": "user.created"}
    theirs = standardwebhooks.Webhook(secret).sign("msg_1", at, BODY.decode())
    assert theirs == ours["webhook-signature"]
    assert WebhookVerifier([secret]).verify(BODY, {"Webhook-ID": "msg_1", **ours}).timestamp == int(at.timestamp())


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_every_header_is_needed_and_signed(name: str) -> None:
    secret = new_secret()
    good = headers([secret], "msg_1", NOW, BODY)
    verifier = WebhookVerifier([secret], now=Hour())
    without = {key: value for key, value in good.items() if key != name}
    changes: list[dict[str, str]] = [without, *({**good, name: value} for value in ("", "x.y", "1", "v1,AAAA", "²"))]
    for changed in changes:
        with pytest.raises(BadWebhook):
            verifier.verify(BODY, changed)
    with pytest.raises(BadWebhook):
        verifier.verify(BODY + b" ", good)
    assert verifier.verify(BODY, good).id == "msg_1"


def test_a_message_counts_once_and_for_five_minutes_either_way() -> None:
    secret, hour = new_secret(), Hour()
    verifier = WebhookVerifier([secret], now=hour)
    for offset, good in ((-301, False), (-300, True), (300, True), (301, False)):
        signed = headers([secret], f"msg_{offset}", NOW + offset, BODY)
        if not good:
            with pytest.raises(BadWebhook, match="old"):
                verifier.verify(BODY, signed)
            continue
        verifier.verify(BODY, signed)
        with pytest.raises(BadWebhook, match="before"):
            verifier.verify(BODY, signed)
    late = headers([secret], "msg_300", NOW + 300, BODY)
    hour.now += 600  # the last moment at which it would still be taken for fresh
    with pytest.raises(BadWebhook, match="before"):
        verifier.verify(BODY, late)


def test_a_message_that_could_not_be_worked_off_may_come_again() -> None:
    secret = new_secret()
    verifier, signed = WebhookVerifier([secret], now=Hour()), headers([secret], "msg_1", NOW, BODY)
    verifier.verify(BODY, signed)
    verifier.forget("msg_1")
    verifier.verify(BODY, signed)


def test_any_live_key_may_have_signed_and_no_other() -> None:
    former, present, key = new_secret(), new_secret(), Ed25519PrivateKey.generate()
    signed = headers([present, former], "msg_1", NOW, BODY, key)
    for known in ([former], [present], [public_key_text(key)], [new_secret(), present]):
        WebhookVerifier(known, now=Hour()).verify(BODY, signed)
    for unknown in ([new_secret()], [public_key_text(Ed25519PrivateKey.generate())]):
        with pytest.raises(BadWebhook, match="signature"):
            WebhookVerifier(unknown, now=Hour()).verify(BODY, signed)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_!!!!", "whsec_" + "A" * 8, "whsec_" + "A" * 200])
def test_a_secret_of_another_form_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        secret_bytes(text)
    assert "AAAA" not in str(refused.value)
    with pytest.raises(ValueError):
        new_secret(8)
    for bad_id in ("", "a.b"):
        with pytest.raises(ValueError):
            sign(new_secret(), bad_id, NOW, BODY)
    for keys in ([], ["whpk_AAAA"]):
        with pytest.raises(ValueError):
            WebhookVerifier(keys)
