"""Routes of voice: decode, call, encode (contract relay, section 10)."""

from __future__ import annotations

from msgspec import UNSET

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.voice.errors import VoiceRefused, VoiceUnavailable
from hapta.relay.voice.models import Denied
from hapta.relay.voice.schemas import (
    AccessAnswer,
    AccessQuery,
    ConversationAnswer,
    TokenAnswer,
    UsageAnswer,
    VoiceRequest,
)
from hapta.relay.voice.service import VoiceService


def routes(voice: VoiceService) -> list[Endpoint]:
    """The URL table of voice."""
    api = VoiceApi(voice)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay voice", max_body_bytes=64 * 1024)
    refusals = [VoiceRefused, VoiceUnavailable]
    return [
        table.get("/v1/voice/access", api.access, summary="Whether voice may be used", answers={200: AccessAnswer}),
        table.get(
            "/v1/voice/usage",
            api.usage,
            summary="What was used in 30 days",
            answers={200: UsageAnswer},
            errors=refusals,
        ),
        table.post(
            "/v1/voice/token",
            api.token,
            summary="A token for a conversation",
            answers={200: TokenAnswer},
            errors=refusals,
        ),
        table.post(
            "/v1/voice/conversations",
            api.begin,
            summary="Begin a conversation",
            answers={200: ConversationAnswer},
            errors=refusals,
        ),
    ]


class VoiceApi:
    """Handlers of voice."""

    def __init__(self, voice: VoiceService) -> None:
        self._voice = voice

    async def access(self, caller: Caller, query: AccessQuery) -> AccessAnswer:
        denied = await self._voice.access(caller.user_id, query.revenue_cat_public_key)
        return AccessAnswer(allowed=denied is None, reason=UNSET if denied is None else denied)

    async def usage(self, caller: Caller) -> UsageAnswer:
        usage = await self._voice.usage(caller.user_id)
        return UsageAnswer(
            used_seconds=usage.used_seconds,
            limit_seconds=usage.limit_seconds,
            conversation_count=usage.conversations,
            conversation_limit=usage.conversation_limit,
            eleven_user_id=usage.eleven_user_id,
        )

    async def token(self, caller: Caller, body: VoiceRequest) -> TokenAnswer:
        outcome = await self._voice.begin(caller.user_id, body.agent_id, body.revenue_cat_public_key)
        usage = outcome.usage
        denied = isinstance(outcome, Denied)
        return TokenAnswer(
            allowed=not denied,
            agent_id=body.agent_id,
            used_seconds=usage.used_seconds,
            limit_seconds=usage.limit_seconds,
            token=UNSET if denied else outcome.token,
            reason=outcome.reason if denied else UNSET,
            eleven_user_id=usage.eleven_user_id,
        )

    async def begin(self, caller: Caller, body: VoiceRequest) -> ConversationAnswer:
        outcome = await self._voice.begin(caller.user_id, body.agent_id, body.revenue_cat_public_key)
        usage = outcome.usage
        if isinstance(outcome, Denied):
            return ConversationAnswer(
                allowed=False,
                agent_id=body.agent_id,
                used_seconds=usage.used_seconds,
                limit_seconds=usage.limit_seconds,
                reason=outcome.reason,
            )
        return ConversationAnswer(
            allowed=True,
            agent_id=body.agent_id,
            used_seconds=usage.used_seconds,
            limit_seconds=usage.limit_seconds,
            conversation_token=outcome.token,
            conversation_id=outcome.conversation_id,
            eleven_user_id=usage.eleven_user_id,
        )
