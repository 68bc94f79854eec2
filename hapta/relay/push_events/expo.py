"""Expo, which carries notifications to phones: what is asked of it, and how its answers are read. Its address is a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hapta.http.fetch import FetchError, GuardedFetch
from hapta.relay.push_events.models import Notification, Ticket
from hapta.settings.relay import RelaySettings

SEND_PATH = "/--/api/v2/push/send"
SECONDS = 10.0


class _Ticket(msgspec.Struct, frozen=True):
    status: str = "error"
    details: dict[str, Any] | None = None


class _Tickets(msgspec.Struct, frozen=True):
    data: list[_Ticket]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Tickets).decode


class Expo:
    """See `models.Carrier`."""

    def __init__(self, settings: RelaySettings, fetch: GuardedFetch) -> None:
        self._settings = settings
        self._fetch = fetch

    @property
    def configured(self) -> bool:
        return bool(self._settings.expo_url)

    async def push(
        self, tokens: Sequence[str], notification: Notification, data: Mapping[str, Any]
    ) -> Sequence[Ticket] | str:
        """See `models.Carrier.push`."""
        messages = [
            {
                "to": token,
                "title": notification.title,
                "body": notification.body,
                "data": data,
                "sound": "default",
                "priority": "high",
            }
            for token in tokens
        ]
        try:
            answer = await self._fetch.request(
                "POST",
                self._settings.expo_url.rstrip("/") + SEND_PATH,
                headers={"content-type": "application/json", "accept": "application/json"},
                body=_encode(messages),
                timeout_seconds=SECONDS,
            )
        except FetchError:
            return "Expo cannot be reached"
        if answer.status != 200:
            return f"Expo answered {answer.status}"
        try:
            tickets = _decode(answer.body).data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return "Expo answered something else"
        return [
            Ticket(one.status == "ok", (one.details or {}).get("error") == "DeviceNotRegistered") for one in tickets
        ]
