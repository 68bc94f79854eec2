"""Routes of push tokens: decode, call, encode (contract relay, section 9.6)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.push_tokens.schemas import DoneAnswer, PushTokenRequest, PushTokensAnswer, PushTokenWire
from hapta.relay.push_tokens.service import PushTokenService


def routes(tokens: PushTokenService) -> list[Endpoint]:
    """The URL table of push tokens."""
    api = PushTokenApi(tokens)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay push", max_body_bytes=64 * 1024)
    return [
        table.get("/v1/push-tokens", api.list, summary="Push tokens, newest first", answers={200: PushTokensAnswer}),
        table.post("/v1/push-tokens", api.add, summary="Register a push token", answers={200: DoneAnswer}),
        table.delete("/v1/push-tokens/{token}", api.remove, summary="Forget a push token", answers={200: DoneAnswer}),
    ]


class PushTokenApi:
    """Handlers of push tokens."""

    def __init__(self, tokens: PushTokenService) -> None:
        self._tokens = tokens

    async def list(self, caller: Caller) -> PushTokensAnswer:
        tokens = await self._tokens.list(caller.user_id)
        return PushTokensAnswer(tokens=[PushTokenWire(**token._asdict()) for token in tokens])

    async def add(self, caller: Caller, body: PushTokenRequest) -> DoneAnswer:
        await self._tokens.add(caller.user_id, body.token)
        return DoneAnswer(success=True)

    async def remove(self, caller: Caller, token: str) -> DoneAnswer:
        await self._tokens.remove(caller.user_id, [token])
        return DoneAnswer(success=True)
