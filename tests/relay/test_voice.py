"""Voice against a little ElevenLabs and a little RevenueCat of our own: tokens, subscriptions, limits, and answers that are none."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hapta.kit.errors import Unavailable
from tests.relay.house import A, Guest, House, OpenHouse

pytestmark = pytest.mark.anyio

KEY = "eleven-key"
MINUTES_20 = 1200


def token_of(conversation: str) -> str:
    """A token as LiveKit's: three parts, the room in the middle one."""
    claims = json.dumps({"video": {"room": f"room_{conversation}"}}).encode()
    return f"e30.{urlsafe_b64encode(claims).rstrip(b'=').decode()}.c2ln"


@dataclass
class Providers:
    """Both providers on one port. What they answer, a test sets; what they were asked, it reads."""

    url: str = ""
    asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = field(default_factory=list[Any])
    token: tuple[int, bytes] | None = None
    conversations: tuple[int, Any] = (200, {"conversations": [], "has_more": False})
    pages: list[Any] = field(default_factory=list[Any])
    subscriber: tuple[int, Any] = (200, {"subscriber": {"entitlements": {}}})
    made: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    silent: bool = False
    """Whether questions are heard and never answered."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            target = urlsplit(head[0].split()[1])
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
            self.asked.append((target.path, parse_qs(target.query), headers))
            self.reached.set()
            if self.silent:
                await reader.read()  # until the client gives up
                return
            status, body = self._answer(target.path)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            writer.write(
                f"HTTP/1.1 {status} X\r\ncontent-length: {len(raw)}\r\nconnection: close\r\n\r\n".encode() + raw
            )
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, path: str) -> tuple[int, Any]:
        if path == "/v1/convai/conversation/token":
            self.made += 1
            return self.token or (200, {"token": token_of(f"conv_{self.made}")})
        if path == "/v1/convai/conversations":
            return (200, self.pages.pop(0)) if self.pages else self.conversations
        if path.startswith("/v1/subscribers/"):
            return self.subscriber
        return 404, {}

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


@pytest.fixture
async def providers() -> AsyncIterator[Providers]:
    given = Providers()
    server = await asyncio.start_server(given.handle, "127.0.0.1", 0)
    async with server:
        given.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield given


Open = Callable[..., Awaitable[House]]


@pytest.fixture
def voice_house(new_house: OpenHouse, providers: Providers) -> Open:
    """A house whose providers are ours."""

    async def new(**settings: Any) -> House:
        usual = {"elevenlabs_api_key": KEY, "elevenlabs_url": providers.url, "revenuecat_url": providers.url + "/"}
        return await new_house(**{**usual, **settings})

    return new


async def begin(guest: Guest, **more: Any) -> Any:
    answer = await guest.post("/v1/voice/conversations", json={"agentId": "agent_1", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_conversation_begins_with_a_token_for_the_accounts_own_name(
    voice_house: Open, providers: Providers
) -> None:
    house = await voice_house()
    a, b = house.guest("a"), house.guest("b")
    first = await begin(a)
    user = first["elevenUserId"]
    assert first == {
        "allowed": True,
        "agentId": "agent_1",
        "conversationToken": token_of("conv_1"),
        "conversationId": "conv_1",
        "elevenUserId": user,
        "usedSeconds": 0,
        "limitSeconds": 30 * 86_400,
    }
    path, query, headers = providers.asked[0]
    assert (path, query) == (
        "/v1/convai/conversation/token",
        {"agent_id": ["agent_1"], "participant_name": [user]},
    )
    assert headers["xi-api-key"] == KEY
    assert A not in user
    assert (await begin(b))["elevenUserId"] != user
    usage = (await a.get("/v1/voice/usage")).json()
    assert usage == {
        "usedSeconds": 0,
        "limitSeconds": 30 * 86_400,
        "conversationCount": 1,
        "conversationLimit": 10_000,
        "elevenUserId": user,
    }


async def test_the_token_route_has_its_own_shape(voice_house: Open) -> None:
    a = (await voice_house()).guest("a")
    answer = await a.post("/v1/voice/token", json={"agentId": "agent_1"})
    body = answer.json()
    assert (answer.status_code, body["allowed"], body["token"], body["agentId"]) == (
        200,
        True,
        token_of("conv_1"),
        "agent_1",
    )
    assert (await a.get("/v1/voice/access")).json() == {"allowed": True}


NO_TOKENS = [
    ((500, b"{}"), "Failed to get ElevenLabs token"),
    ((302, b""), "Failed to get ElevenLabs token"),
    ((200, b'{"token": ""}'), "ElevenLabs returned empty token"),
    ((200, b"{}"), "ElevenLabs returned empty token"),
    ((200, b"no json"), "ElevenLabs API error"),
    ((200, b'{"token": 1}'), "ElevenLabs API error"),
    ((200, b"\xff" * 10), "ElevenLabs API error"),
    ((200, b"[" * 100_000), "ElevenLabs API error"),
    ((200, b" " * 2_000_000), "ElevenLabs API error"),
]


@pytest.mark.parametrize("path", ["/v1/voice/token", "/v1/voice/conversations"])
async def test_without_a_token_nothing_begins(voice_house: Open, providers: Providers, path: str) -> None:
    a = (await voice_house(voice_conversations_per_month=1)).guest("a")
    for answer, error in NO_TOKENS:  # what did not begin does not count
        providers.token = answer
        refused = await a.post(path, json={"agentId": "agent_1"})
        assert (refused.status_code, refused.json()) == (400, {"allowed": False, "error": error})
    providers.token = None
    assert (await begin(a))["allowed"] is True


async def test_a_provider_that_is_away_is_told(voice_house: Open) -> None:
    a = (await voice_house(elevenlabs_url="http://127.0.0.1:1", voice_seconds_per_month=60)).guest("a")
    refused = await a.post("/v1/voice/conversations", json={"agentId": "x"})
    assert (refused.status_code, refused.json()) == (502, {"error": "Voice usage is temporarily unavailable"})
    assert (await a.get("/v1/voice/usage")).json()["usedSeconds"] == 0


async def test_without_a_key_voice_is_off(voice_house: Open, providers: Providers) -> None:
    a = (await voice_house(elevenlabs_api_key="")).guest("a")
    refusal = {"allowed": False, "error": "Missing ElevenLabs API key on the server"}
    for path in ("/v1/voice/token", "/v1/voice/conversations"):
        answer = await a.post(path, json={"agentId": "x"})
        assert (answer.status_code, answer.json()) == (400, refusal)
    usage = await a.get("/v1/voice/usage")
    assert (usage.status_code, usage.json()) == (400, refusal)
    assert (await a.get("/v1/voice/access")).json() == {"allowed": False, "reason": "voice_not_configured"}
    assert providers.asked == []


SUBSCRIBERS: list[tuple[tuple[int, Any], str | None]] = [
    ((200, {"subscriber": {"entitlements": {"active": {"pro": {}}}}}), None),
    ((200, {"subscriber": {"entitlements": {"pro": {"expires_date": None}}}}), None),
    ((200, {"subscriber": {"entitlements": {"pro": {"expires_date": "2031-01-01T00:00:00Z"}}}}), None),
    (
        (200, {"subscriber": {"entitlements": {"pro": {"expires_date": "2029-01-01T00:00:00Z"}}}}),
        "subscription_required",
    ),
    ((200, {"subscriber": {"entitlements": {"active": {"basic": {}}}}}), "subscription_required"),
    ((200, {"subscriber": []}), "subscription_required"),
    ((404, {}), "subscription_check_failed"),
    ((200, []), "subscription_check_error"),
    ((200, b"no json"), "subscription_check_error"),
]


async def test_where_a_subscription_is_needed_it_is_asked_for(voice_house: Open, providers: Providers) -> None:
    a = (await voice_house(voice_requires_subscription=True)).guest("a")
    for subscriber, reason in SUBSCRIBERS:
        providers.subscriber = subscriber
        providers.asked.clear()
        access = (await a.get("/v1/voice/access", params={"revenueCatPublicKey": "appl_key"})).json()
        assert access == ({"allowed": True} if reason is None else {"allowed": False, "reason": reason})
        path, _, headers = providers.asked[0]
        assert (path, headers["authorization"]) == (f"/v1/subscribers/{A}", "Bearer appl_key")
        outcome = await begin(a, revenueCatPublicKey="appl_key")
        assert outcome["allowed"] is (reason is None)
        if reason is not None:
            assert outcome["reason"] == "subscription_required"
            assert "conversationToken" not in outcome
            token = (await a.post("/v1/voice/token", json={"agentId": "x", "revenueCatPublicKey": "k"})).json()
            assert (token["allowed"], token["agentId"], "token" in token) == (False, "x", False)
            assert "/v1/convai/conversation/token" not in providers.paths()


async def test_a_subscription_is_asked_for_with_a_key(voice_house: Open, providers: Providers) -> None:
    a = (await voice_house(voice_requires_subscription=True)).guest("a")
    answer = await a.post("/v1/voice/token", json={"agentId": "x"})
    assert (answer.status_code, answer.json()) == (400, {"allowed": False, "error": "RevenueCat public key required"})
    assert (await a.get("/v1/voice/access")).json() == {"allowed": False, "reason": "revenuecat_key_required"}
    assert providers.asked == []
    own = (await voice_house(voice_requires_subscription=True, revenuecat_api_key="server")).guest("a")
    assert (await own.get("/v1/voice/access")).json() == {"allowed": False, "reason": "subscription_required"}
    assert providers.asked[0][2]["authorization"] == "Bearer server"


async def test_seconds_are_counted_over_all_pages_of_thirty_days(voice_house: Open, providers: Providers) -> None:
    house = await voice_house(voice_seconds_per_month=MINUTES_20)
    a = house.guest("a")
    now = int(house.clock.now())
    conversation = {"conversation_id": "conv_1", "start_time_unix_secs": now, "call_duration_secs": 700}
    older = {"conversation_id": "conv_0", "start_time_unix_secs": now - 31 * 86_400, "call_duration_secs": 9000}
    running = {"conversation_id": "conv_2", "start_time_unix_secs": now, "call_duration_secs": None}
    first = {"conversations": [conversation, older, running], "has_more": True, "next_cursor": "more"}
    providers.pages = [first, {"conversations": [{**conversation, "conversation_id": "conv_3"}], "has_more": False}]
    denied = await begin(a)
    user = (await a.get("/v1/voice/usage")).json()["elevenUserId"]
    assert denied == {
        "allowed": False,
        "agentId": "agent_1",
        "reason": "voice_hard_limit_reached",
        "usedSeconds": 1400,
        "limitSeconds": MINUTES_20,
    }
    queries = [query for path, query, _ in providers.asked if path == "/v1/convai/conversations"]
    assert queries[0]["user_id"] == [user]
    assert queries[0]["call_start_after_unix"] == [str(now - 30 * 86_400)]
    assert queries[1]["cursor"] == ["more"]
    providers.pages = []
    assert (await begin(a))["allowed"] is True


async def test_lengths_that_were_told_once_are_known_when_nobody_tells_them(
    voice_house: Open, providers: Providers
) -> None:
    house = await voice_house()
    a = house.guest("a")
    await begin(a)
    conversation = {"conversation_id": "conv_1", "start_time_unix_secs": house.clock.now(), "call_duration_secs": 61.4}
    providers.conversations = (200, {"conversations": [conversation]})
    assert (await a.get("/v1/voice/usage")).json()["usedSeconds"] == 61
    providers.conversations = (500, {})
    assert (await a.get("/v1/voice/usage")).json()["usedSeconds"] == 61
    assert (await begin(a))["usedSeconds"] == 61
    house.clock.advance(days=31)
    usage = (await a.get("/v1/voice/usage")).json()
    assert (usage["usedSeconds"], usage["conversationCount"]) == (0, 0)


async def test_of_many_conversations_at_once_so_many_begin_as_may(voice_house: Open) -> None:
    house = await voice_house(voice_conversations_per_month=3)
    a, b = house.guest("a"), house.guest("b")
    outcomes = await asyncio.gather(*[begin(a) for _ in range(12)])
    assert sum(outcome["allowed"] for outcome in outcomes) == 3
    reasons = {outcome["reason"] for outcome in outcomes if not outcome["allowed"]}
    assert reasons == {"voice_conversation_limit_reached"}
    assert (await begin(b))["allowed"] is True
    house.clock.advance(days=30, seconds=1)
    assert (await begin(a))["allowed"] is True


async def test_a_place_that_nobody_could_give_back_ends_by_itself(voice_house: Open, providers: Providers) -> None:
    house = await voice_house(voice_conversations_per_month=1)
    a = house.guest("a")
    providers.silent = True
    waiting = asyncio.create_task(begin(a))
    await providers.reached.wait()
    waiting.cancel()  # cut off without a chance to give anything back
    await asyncio.wait([waiting])
    providers.silent = False
    assert (await begin(a))["reason"] == "voice_conversation_limit_reached"
    assert (await a.get("/v1/voice/usage")).json()["conversationCount"] == 1
    house.clock.advance(minutes=2, seconds=1)
    assert (await a.get("/v1/voice/usage")).json()["conversationCount"] == 0
    assert (await begin(a))["allowed"] is True
    house.clock.advance(minutes=2, seconds=1)  # what has begun counts on
    assert (await begin(a))["allowed"] is False


async def test_a_database_that_is_away_does_not_hide_why_a_conversation_did_not_begin(
    voice_house: Open, providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*given: Any) -> None:
        raise Unavailable

    monkeypatch.setattr("hapta.relay.voice.store.undo", away)
    house = await voice_house(voice_conversations_per_month=1)
    a = house.guest("a")
    providers.token = (500, b"{}")
    refused = await a.post("/v1/voice/token", json={"agentId": "agent_1"})
    assert (refused.status_code, refused.json()["error"]) == (400, "Failed to get ElevenLabs token")
    providers.token = None
    assert (await begin(a))["allowed"] is False
    house.clock.advance(minutes=2, seconds=1)
    assert (await begin(a))["allowed"] is True


BAD_REQUESTS: list[Any] = [
    {},
    {"agentId": ""},
    {"agentId": "x" * 129},
    {"agentId": 1},
    {"agentId": "x", "revenueCatPublicKey": "line\r\nfeed"},
    {"agentId": "x", "revenueCatPublicKey": ""},
    {"agentId": "x", "revenueCatPublicKey": "ü"},
]


async def test_a_request_outside_the_bounds_is_refused(a: Guest) -> None:
    for body in BAD_REQUESTS:
        for path in ("/v1/voice/token", "/v1/voice/conversations"):
            answer = await a.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_FAILED"), body
    assert (await a.get("/v1/voice/access", params={"revenueCatPublicKey": "a b"})).status_code == 400


async def test_a_token_without_a_room_still_begins_a_conversation(voice_house: Open, providers: Providers) -> None:
    a = (await voice_house()).guest("a")
    for token in ("plain", "a.b.c", "e30.e30.e30", f"e30.{urlsafe_b64encode(b'[1]').decode()}.x"):
        providers.token = (200, json.dumps({"token": token}).encode())
        outcome = await begin(a)
        assert outcome["conversationToken"] == token
        assert len(outcome["conversationId"]) == 32
