"""Routes of messages, three versions over one service: decode, call, encode (contract relay, section 4)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.errors import InvalidCursor, SessionNotFound
from hapta.relay.messages.errors import MessageTooLarge
from hapta.relay.messages.schemas import (
    MessageAnswer,
    MessageList,
    MessagePage,
    MessageRange,
    MessagesAnswer,
    PostedAnswer,
    PostMessage,
    PostMessages,
    RangeAnswer,
    RecentMessages,
    item,
    plain,
    sealed,
    stored,
    told,
)
from hapta.relay.messages.service import MessagesService

RECENT = 150
MAX_BODY_BYTES = 10 * 1024 * 1024
MANY_MAX_BODY_BYTES = 100 * 1024 * 1024
"""Of several messages at once. Upstream's programs send the last 50 that wait, never fewer, and say a refused request again for
ever: a limit that they can reach after a while offline would end their session (contract relay, section 1.3). The server's own
limit, `server.max_body_bytes`, holds all the same."""


def routes(api: MessagesApi) -> list[Endpoint]:
    """The URL table of messages."""
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="messages", max_body_bytes=MAX_BODY_BYTES)
    return [
        own.get(
            "/v1/sessions/{sessionId}/messages",
            api.recent,
            summary="The last 150 messages, the last one first; or those past a number, in their order",
            answers={200: MessagesAnswer},
            errors=[SessionNotFound],
        ),
        own.post(
            "/v1/sessions/{sessionId}/messages",
            api.post_one,
            summary="Store a message",
            answers={200: MessageAnswer},
            errors=[SessionNotFound, MessageTooLarge],
        ),
        own.get(
            "/v2/sessions/{sessionId}/messages",
            api.page,
            summary="Messages, the last one first, page by page",
            answers={200: MessagePage},
            errors=[SessionNotFound, InvalidCursor],
        ),
        own.get(
            "/v3/sessions/{sessionId}/messages",
            api.range,
            summary="Messages past a number, in their order, or below one, the last one first",
            description="`hasMore` says whether there are more in that direction: a page ends early when its messages are large.",
            answers={200: RangeAnswer},
            errors=[SessionNotFound],
        ),
        own.post(
            "/v3/sessions/{sessionId}/messages",
            api.post_many,
            summary="Store up to 100 messages; those whose `localId` is known are answered as they are stored",
            max_body_bytes=MANY_MAX_BODY_BYTES,
            answers={200: PostedAnswer},
            errors=[SessionNotFound, MessageTooLarge],
        ),
    ]


class MessagesApi:
    """Handlers of messages."""

    def __init__(self, messages: MessagesService) -> None:
        self._messages = messages

    async def recent(self, caller: Caller, sessionId: str, query: RecentMessages) -> MessagesAnswer:
        if query.since_seq is None:
            page = await self._messages.recent(caller.user_id, sessionId, RECENT)
        else:
            page = await self._messages.after(caller.user_id, sessionId, query.since_seq, RECENT)
        return MessagesAnswer(messages=[item(sessionId, message) for message in page.messages])

    async def post_one(self, caller: Caller, sessionId: str, body: PostMessage) -> MessageAnswer:
        posted = await self._messages.post(caller.user_id, sessionId, [plain(body.local_id, body.content)])
        return MessageAnswer(message=item(sessionId, posted.messages[0]))

    async def page(self, caller: Caller, sessionId: str, query: MessageList) -> MessagePage:
        messages, cursor = await self._messages.page(caller.user_id, sessionId, query.cursor, query.limit)
        return MessagePage(messages=[item(sessionId, message) for message in messages], next_cursor=cursor)

    async def range(self, caller: Caller, sessionId: str, query: MessageRange) -> RangeAnswer:
        if query.before_seq is not None:
            page = await self._messages.before(caller.user_id, sessionId, query.before_seq, query.limit)
        else:
            page = await self._messages.after(caller.user_id, sessionId, query.after_seq or 0, query.limit)
        return RangeAnswer(messages=[told(message) for message in page.messages], has_more=page.has_more)

    async def post_many(self, caller: Caller, sessionId: str, body: PostMessages) -> PostedAnswer:
        items = [sealed(message.local_id, message.content) for message in body.messages]
        posted = await self._messages.post(caller.user_id, sessionId, items)
        return PostedAnswer(messages=[stored(message) for message in posted.messages])
