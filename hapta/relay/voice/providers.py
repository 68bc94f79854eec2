"""ElevenLabs, which makes voice, and RevenueCat, which knows subscriptions: what is asked of them, and how answers are read.

Addresses are settings; every request is guarded and bounded. Keys travel in headers only and never reach a log.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote, urlencode

import msgspec
import structlog

from hapta.http.fetch import Fetched, FetchError, GuardedFetch
from hapta.kit.clock import iso_ms
from hapta.relay.voice.errors import VoiceRefused
from hapta.relay.voice.models import AccessDenial
from hapta.settings.relay import RelaySettings

ENTITLEMENT = "pro"
MAX_PAGES = 5
"""Pages of 100 conversations that are read for one account."""
MAX_ANSWER_BYTES = 1024 * 1024
MAX_CALL_SECONDS = 30 * 86_400.0
_CONVERSATION = re.compile(r"conv_[A-Za-z0-9]+")
_log = structlog.get_logger("hapta.relay.voice")


class _Token(msgspec.Struct):
    token: str = ""


class _Conversation(msgspec.Struct):
    conversation_id: str
    call_duration_secs: float | None = None
    start_time_unix_secs: float | None = None


class _Conversations(msgspec.Struct):
    conversations: list[_Conversation] = []
    has_more: bool = False
    next_cursor: str | None = None


class UnreadableAnswer(Exception):
    """A provider was away, refused, or answered what cannot be read."""


class VoiceProviders:
    """Asks both providers."""

    def __init__(self, settings: RelaySettings, fetch: GuardedFetch) -> None:
        self._settings = settings
        self._fetch = fetch

    @property
    def configured(self) -> bool:
        return bool(self._settings.elevenlabs_api_key)

    async def token(self, agent_id: str, eleven_user_id: str) -> str:
        """A token that opens one conversation with an agent.

        Args:
            eleven_user_id: under which name ElevenLabs counts it.

        Raises:
            VoiceRefused: there is no key, or ElevenLabs gave no token; in the words of the contract.
        """
        if not self.configured:
            raise VoiceRefused("Missing ElevenLabs API key on the server")
        query = urlencode({"agent_id": agent_id, "participant_name": eleven_user_id})
        try:
            answer = await self._eleven(f"/v1/convai/conversation/token?{query}")
            token = _read(answer, _Token).token if _is_good(answer) else None
        except (FetchError, UnreadableAnswer) as error:
            _log.warning("no token of ElevenLabs", reason=str(error))
            raise VoiceRefused from None
        if token is None:
            _log.warning("no token of ElevenLabs", status=answer.status)
            raise VoiceRefused("Failed to get ElevenLabs token")
        if not token:
            raise VoiceRefused("ElevenLabs returned empty token")
        return token

    async def durations(self, eleven_user_id: str, since_ms: int) -> Mapping[str, int]:
        """Seconds of the conversations that began since an instant, by their ids.

        Raises:
            UnreadableAnswer: ElevenLabs did not say.
        """
        since = since_ms // 1000
        found: dict[str, int] = {}
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            parameters = {"user_id": eleven_user_id, "call_start_after_unix": str(since), "page_size": "100"}
            query = urlencode(parameters if cursor is None else {**parameters, "cursor": cursor})
            try:
                answer = await self._eleven(f"/v1/convai/conversations?{query}")
            except FetchError as error:
                raise UnreadableAnswer(str(error)) from None
            if not _is_good(answer):
                raise UnreadableAnswer(f"status {answer.status}")
            page = _read(answer, _Conversations)
            for one in page.conversations:
                if one.start_time_unix_secs is None or one.start_time_unix_secs >= since:
                    found[one.conversation_id] = round(min(max(0.0, one.call_duration_secs or 0.0), MAX_CALL_SECONDS))
            cursor = page.next_cursor
            if not page.has_more or not cursor:
                break
        return found

    async def _eleven(self, path: str) -> Fetched:
        url = self._settings.elevenlabs_url.rstrip("/") + path
        key = {"xi-api-key": self._settings.elevenlabs_api_key, "accept": "application/json"}
        return await self._fetch.request("GET", url, headers=key, max_bytes=MAX_ANSWER_BYTES)

    async def subscription(self, account_id: str, key: str, now_ms: int) -> AccessDenial | None:
        """Why an account has no subscription; None: it has one.

        Args:
            key: the app's key for RevenueCat, or this server's.
        """
        url = f"{self._settings.revenuecat_url.rstrip('/')}/v1/subscribers/{quote(account_id, safe='')}"
        headers = {"authorization": f"Bearer {key}", "accept": "application/json"}
        try:
            answer = await self._fetch.request("GET", url, headers=headers, max_bytes=MAX_ANSWER_BYTES)
            if not _is_good(answer):
                return "subscription_check_failed"
            return None if _is_entitled(_read(answer, dict[str, Any]), now_ms) else "subscription_required"
        except (FetchError, UnreadableAnswer) as error:
            _log.warning("no answer of RevenueCat", reason=str(error))
            return "subscription_check_error"


def _is_good(answer: Fetched) -> bool:
    return 200 <= answer.status < 300


def _read(answer: Fetched, type_: Any) -> Any:
    try:
        return msgspec.json.decode(answer.body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UnreadableAnswer("the answer cannot be read") from None


def _is_entitled(answer: Any, now_ms: int) -> bool:
    """Whether an answer names the entitlement: among the active ones, or by its end, which is how RevenueCat's API has it."""
    entitlements = _member(_member(answer, "subscriber"), "entitlements")
    if _member(_member(entitlements, "active"), ENTITLEMENT) is not None:
        return True
    own = _member(entitlements, ENTITLEMENT)
    if not isinstance(own, dict):
        return False
    ends = _member(own, "expires_date")
    return ends is None or (isinstance(ends, str) and ends > iso_ms(now_ms)[:19])


def _member(value: Any, name: str) -> Any:
    return cast(dict[str, Any], value).get(name) if isinstance(value, dict) else None


def conversation_of(token: str) -> str | None:
    """The id of the conversation that a token opens: a part of the room that it names (LiveKit's `video.room`).

    The token is not judged: it is ElevenLabs', for ElevenLabs.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    match = _CONVERSATION.search(str(_member(_member(claims, "video"), "room") or ""))
    return None if match is None else match[0][:128]
