"""Voice: who may begin a conversation, and what an account has used (contract relay, section 10).

A place is reserved before ElevenLabs is asked, under the lock of the account's head, so that many requests at once never begin
more conversations than the limit allows. It is given back when no token came, and ends by itself after `RESERVED_MS` when even
that fails: a place counts for long only once its conversation has a name.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping

import structlog

from hapta.db.database import Database, WriteTx
from hapta.kit.background import attempted
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.relay.updates.heads import Heads
from hapta.relay.voice import store
from hapta.relay.voice.errors import VoiceRefused, VoiceUnavailable
from hapta.relay.voice.models import AccessDenial, Denied, Granted, Usage
from hapta.relay.voice.providers import UnreadableAnswer, VoiceProviders, conversation_of
from hapta.settings.relay import RelaySettings

WINDOW_MS = 30 * 86_400_000
UNLIMITED_SECONDS = 30 * 86_400
"""What clients are told where there is no limit: all of the 30 days."""
RESERVED_MS = 2 * 60_000
"""So long a place is kept for a request that has no token yet; more than asking for one may take."""
MAX_CONVERSATIONS = 10_000
"""In 30 days where no limit is set; also what clients are told then."""
_log = structlog.get_logger("hapta.relay.voice")


class VoiceService:
    """Begins conversations and says what was used.

    Args:
        user_key: makes the names under which ElevenLabs knows accounts; it must stay the same for 30 days.
    """

    def __init__(
        self,
        db: Database,
        heads: Heads,
        clock: Clock,
        ids: Ids,
        settings: RelaySettings,
        providers: VoiceProviders,
        *,
        user_key: bytes,
    ) -> None:
        self._db = db
        self._heads = heads
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._providers = providers
        self._user_key = user_key

    async def access(self, account_id: str, key: str | None) -> AccessDenial | None:
        """Why the account may not use voice; None: it may.

        Args:
            key: the app's key for RevenueCat.
        """
        if not self._providers.configured:
            return "voice_not_configured"
        return await self._subscription(account_id, key)

    async def _subscription(self, account_id: str, key: str | None) -> AccessDenial | None:
        if not self._settings.voice_requires_subscription:
            return None
        own = key or self._settings.revenuecat_api_key
        if not own:
            return "revenuecat_key_required"
        return await self._providers.subscription(account_id, own, self._clock.now_ms())

    async def begin(self, account_id: str, agent_id: str, key: str | None) -> Granted | Denied:
        """Begins a conversation with an agent, if the account may.

        Raises:
            VoiceRefused: voice is not set up here, or ElevenLabs gave no token.
            VoiceUnavailable: there is a limit, and ElevenLabs does not say what was used.
        """
        if not self._providers.configured:
            raise VoiceRefused("Missing ElevenLabs API key on the server")
        denied = await self._subscription(account_id, key)
        if denied == "revenuecat_key_required":
            raise VoiceRefused("RevenueCat public key required")
        limited = self._settings.voice_seconds_per_month > 0
        usage = await self._usage(account_id, must_know=limited)
        if denied is not None:
            return Denied("subscription_required", usage)
        if limited and usage.used_seconds >= usage.limit_seconds:
            return Denied("voice_hard_limit_reached", usage)
        row_id = self._ids.uuid().replace("-", "")
        if not await self._reserve(account_id, row_id):
            return Denied("voice_conversation_limit_reached", usage)
        try:
            token = await self._providers.token(agent_id, usage.eleven_user_id)
        except VoiceRefused:
            # Whoever is cut off here, by a database that is away or a client that has gone, leaves a place that ends by itself.
            await attempted("places for conversations", lambda: self._give_back(account_id, row_id))
            raise
        conversation_id = conversation_of(token) or row_id
        await self._db.write(lambda tx: store.name(tx, account_id, row_id, conversation_id))
        return Granted(token, conversation_id, usage)

    async def _reserve(self, account_id: str, row_id: str) -> bool:
        """Keeps a place for a conversation that begins now; False when it would be one too many."""
        now = self._clock.now_ms()
        since, reserved_since = now - WINDOW_MS, now - RESERVED_MS

        async def body(tx: WriteTx) -> bool:
            await self._heads.locked(tx, account_id)
            await store.forget(tx, account_id, since, reserved_since)
            begun, _ = await store.used(tx, account_id, since, reserved_since)
            if begun >= self._conversation_limit:
                return False
            await store.reserve(tx, account_id, row_id, now)
            return True

        return await self._db.write(body)

    async def _give_back(self, account_id: str, row_id: str) -> None:
        await self._db.write(lambda tx: store.undo(tx, account_id, row_id))

    async def usage(self, account_id: str) -> Usage:
        """What was used in the last 30 days; as last known while ElevenLabs does not say.

        Raises:
            VoiceRefused: voice is not set up here.
        """
        if not self._providers.configured:
            raise VoiceRefused("Missing ElevenLabs API key on the server")
        return await self._usage(account_id, must_know=False, ask=True)

    async def _usage(self, account_id: str, *, must_know: bool, ask: bool = False) -> Usage:
        now = self._clock.now_ms()
        since = now - WINDOW_MS
        name = self._eleven_user_id(account_id)
        told: Mapping[str, int] = {}
        if must_know or ask:
            try:
                told = await self._providers.durations(name, since)
            except UnreadableAnswer as error:
                _log.warning("no usage of ElevenLabs", reason=str(error))
                if must_know:
                    raise VoiceUnavailable from None

        async def body(tx: WriteTx) -> tuple[int, int]:
            if told:
                await store.set_durations(tx, account_id, told)
            return await store.used(tx, account_id, since, now - RESERVED_MS)

        begun, seconds = await self._db.write(body)
        return Usage(
            used_seconds=max(seconds, sum(told.values())),
            limit_seconds=self._settings.voice_seconds_per_month or UNLIMITED_SECONDS,
            conversations=max(begun, len(told)),
            conversation_limit=self._conversation_limit,
            eleven_user_id=name,
        )

    @property
    def _conversation_limit(self) -> int:
        return self._settings.voice_conversations_per_month or MAX_CONVERSATIONS

    def _eleven_user_id(self, account_id: str) -> str:
        digest = hmac.digest(self._user_key, account_id.encode(), "sha256")
        return "u_" + urlsafe_b64encode(digest).rstrip(b"=").decode()


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
