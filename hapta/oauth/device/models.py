"""What the device grant works with. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import NamedTuple

from hapta.oauth.models import Client


class DeviceStart(NamedTuple):
    """What a device is told (RFC 8628, section 3.2)."""

    device_code: str
    user_code: str
    expires_in_seconds: int
    interval_seconds: int


class Pending(NamedTuple):
    """A device that waits for a person."""

    client_id: str
    code_hash: bytes
    scopes: tuple[str, ...]
    resources: tuple[str, ...]
    address: str | None
    user_agent: str | None
    created_at: int
    expires_at: int


class PendingView(NamedTuple):
    """What a person sees before they confirm."""

    pending: Pending
    client: Client
    user_code: str
    """As people read it: `XXXX-XXXX`."""


class Polled(NamedTuple):
    """A device's row, as a poll finds it."""

    interval_ms: int
    polled_at: int | None
    expires_at: int
    decision: str | None
    consumed_at: int | None
