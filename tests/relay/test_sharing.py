"""Sharing a session: with people, by a token, by invitations in a mail; what owners may, and what nobody else may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from hapta.http.fetch import GuardedFetch
from hapta.kit.clock import iso_ms
from hapta.kit.errors import Unavailable
from hapta.kit.ratelimit import MemoryLimiter
from hapta.relay.account.service import AccountService
from hapta.relay.personal import Surroundings
from hapta.relay.sharing import service as sharing_service
from hapta.testing.clock import FakeClock
from tests.relay.house import A, B, Guest, House, OpenHouse, Tokens
from tests.relay.test_account import OCTOCAT

pytestmark = pytest.mark.anyio

C = "01900000-0000-7000-8000-00000000000c"
NOT_MINE = {"error": "Session not found or you do not have permission"}
DAY = 86_400


@dataclass
class Post:
    """The mails that were sent, and the addresses that accounts have proved."""

    sent: list[tuple[str, Mapping[str, str]]] = field(default_factory=list[tuple[str, Mapping[str, str]]])
    proved: dict[str, list[str]] = field(default_factory=lambda: {A: ["a@example.org"], B: ["B@Example.org"]})
    away: bool = False

    async def invite(self, address: str, variables: Mapping[str, str]) -> None:
        if self.away:
            raise Unavailable("The mail was not sent")
        self.sent.append((address, variables))

    async def emails(self, account_id: str) -> Sequence[str]:
        return self.proved.get(account_id, [])

    @property
    def token(self) -> str:
        """Of the last mail."""
        return self.sent[-1][1]["link"].rpartition("/")[2]


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
async def house(new_house: OpenHouse, post: Post) -> House:
    """With a post and limits; overrides the usual one."""
    clock, tokens = FakeClock(), Tokens()
    tokens.add("c", C)
    around = Surroundings(
        exists=tokens.knows, fetch=GuardedFetch(), production=False, emails=post.emails, invite=post.invite
    )
    return await new_house(
        clock=clock,
        tokens=tokens,
        limiter=MemoryLimiter(clock.monotonic),
        relay={"around": around},
        app_url="https://app.example.org/",
    )


async def new_session(guest: Guest, tag: str = "t") -> str:
    answer = await guest.post("/v1/sessions", json={"tag": tag, "metadata": f"sealed {tag}"})
    return answer.json()["session"]["id"]


@pytest.fixture
async def session(a: Guest) -> str:
    """A session of A."""
    return await new_session(a)


# --- with people ---


async def test_a_session_is_shared_with_a_person(house: House, a: Guest, b: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    assert (await a.get(path)).json() == {
        "sessionId": session,
        "shares": [],
        "urlSharing": {"enabled": False, "permission": "view_only"},
        "invitations": [],
    }
    await b.put("/v1/account", json={"firstName": "Bea", "username": "bea"})
    answer = await a.post(path, json={"userId": B, "permission": "view_and_chat"})
    assert answer.status_code == 200
    share = answer.json()["share"]
    assert str(UUID(share["id"])) == share["id"]
    assert share == {
        "id": share["id"],
        "userId": B,
        "userProfile": {"id": B, "firstName": "Bea", "lastName": None, "username": "bea"},
        "permission": "view_and_chat",
        "sharedAt": iso_ms(house.clock.now_ms()),
        "sharedBy": A,
    }
    assert answer.json()["success"] is True
    assert (await a.get(path)).json()["shares"] == [share]

    changed = await a.patch(f"{path}/{share['id']}", json={"permission": "view_only"})
    assert changed.json() == {"success": True, "share": {**share, "permission": "view_only"}}
    assert (await a.delete(f"{path}/{share['id']}")).json() == {"success": True}
    for answer in (
        await a.delete(f"{path}/{share['id']}"),
        await a.patch(f"{path}/{share['id']}", json={"permission": "view_only"}),
        await a.delete(f"{path}/no-uuid"),
    ):
        assert (answer.status_code, answer.json()) == (404, {"error": "Share not found"})
    assert (await a.get(path)).json()["shares"] == []


async def test_nobody_twice_not_oneself_and_nobody_who_is_not_there(a: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    unknown = await a.post(path, json={"userId": "nobody", "permission": "view_only"})
    assert (unknown.status_code, unknown.json()) == (404, {"error": "User not found"})
    racing = [a.post(path, json={"userId": B, "permission": "view_only"}) for _ in range(5)]
    statuses = sorted([answer.status_code for answer in await asyncio.gather(*racing)])
    assert statuses == [200, 409, 409, 409, 409]
    for other in (B, A):
        again = await a.post(path, json={"userId": other, "permission": "view_only"})
        assert (again.status_code, again.json()) == (409, {"error": "User already has access to this session"})


@pytest.mark.parametrize(
    "body",
    [
        {"permission": "view_only"},
        {"userId": B},
        {"userId": B, "permission": "own"},
        {"userId": "", "permission": "view_only"},
        {"email": "nobody", "permission": "view_only"},
        {"email": "a@b.c\nbcc: d@e.f", "permission": "view_only"},
        {"email": "x@" + "y" * 300 + ".org", "permission": "view_only"},
        {"userId": None, "email": None, "permission": "view_only"},
        [],
    ],
    ids=["nobody", "no permission", "permission", "empty", "no address", "header", "long", "nulls", "list"],
)
async def test_a_bad_share_is_refused(a: Guest, session: str, body: Any) -> None:
    assert (await a.post(f"/v1/sessions/{session}/sharing", json=body)).status_code == 400


async def test_a_session_is_shared_with_so_many_at_most(
    a: Guest, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing_service, "MAX_SHARES", 1)
    path = f"/v1/sessions/{session}/sharing"
    assert (await a.post(path, json={"userId": B, "permission": "view_only"})).status_code == 200
    assert (await a.post(path, json={"userId": C, "permission": "view_only"})).status_code == 409
    assert (await a.post(path, json={"email": "x@example.org", "permission": "view_only"})).status_code == 409


async def test_only_the_owner_manages_sharing(house: House, a: Guest, b: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    share = (await a.post(path, json={"userId": B, "permission": "view_and_chat"})).json()["share"]
    invitation = (await a.post(f"{path}/invite", json={"email": "x@example.org", "permission": "view_only"})).json()
    invited = invitation["invitation"]["id"]
    before = (await a.get(path)).json()
    calls: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("POST", path, {"userId": C, "permission": "view_only"}),
        ("POST", path, {"email": "y@example.org", "permission": "view_only"}),
        ("POST", f"{path}/invite", {"email": "y@example.org", "permission": "view_only"}),
        ("POST", f"{path}/invitations/{invited}/resend", None),
        ("DELETE", f"{path}/invitations/{invited}", None),
        ("PUT", f"{path}/url", {"enabled": True}),
        ("PATCH", f"{path}/{share['id']}", {"permission": "view_only"}),
        ("DELETE", f"{path}/{share['id']}", None),
    ]
    for method, target, body in calls:
        options = {} if body is None else {"json": body}
        answer = await b.request(method, target, **options)
        assert (answer.status_code, answer.json()) == (404, NOT_MINE), target
        missing = await a.request(method, target.replace(session, "none"), **options)
        assert (missing.status_code, missing.json()) == (404, NOT_MINE), target
        assert (await house.http.request(method, target, **options)).status_code == 401
    assert (await a.get(path)).json() == before


async def test_a_share_of_one_session_is_none_of_another(a: Guest, session: str) -> None:
    other = await new_session(a, "other")
    share = (await a.post(f"/v1/sessions/{session}/sharing", json={"userId": B, "permission": "view_only"})).json()
    assert (await a.delete(f"/v1/sessions/{other}/sharing/{share['share']['id']}")).status_code == 404
    assert len((await a.get(f"/v1/sessions/{session}/sharing")).json()["shares"]) == 1


async def test_a_share_opens_nothing_else(a: Guest, b: Guest, session: str) -> None:
    await a.post(f"/v1/sessions/{session}/sharing", json={"userId": B, "permission": "view_and_chat"})
    assert (await b.get(f"/v1/sessions/{session}")).status_code == 404
    assert (await b.get(f"/v3/sessions/{session}/messages")).status_code == 404
    assert (await b.get("/v1/sessions")).json()["sessions"] == []


# --- by a token ---


async def test_a_session_opens_by_its_token_until_it_is_closed(house: House, a: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing/url"
    first = (await a.put(path, json={"enabled": True})).json()
    token = first["urlSharing"]["token"]
    assert UUID(token).version == 4
    assert first == {"success": True, "urlSharing": {"enabled": True, "token": token, "permission": "view_only"}}
    seen = await house.http.post(f"/v1/sessions/shared/{token}", json={})
    assert seen.json() == {"session": {"id": session, "metadata": "sealed t", "permission": "view_only"}}
    assert (await house.http.post(f"/v1/sessions/shared/{token}")).status_code == 200

    kept = (await a.put(path, json={"enabled": True, "permission": "view_and_chat"})).json()["urlSharing"]
    assert kept == {"enabled": True, "token": token, "permission": "view_and_chat"}
    assert (await a.put(path, json={"enabled": True})).json()["urlSharing"] == kept
    assert (await a.get(f"/v1/sessions/{session}/sharing")).json()["urlSharing"] == kept

    closed = (await a.put(path, json={"enabled": False})).json()
    assert closed == {"success": True, "urlSharing": {"enabled": False, "permission": "view_only"}}
    gone = await house.http.post(f"/v1/sessions/shared/{token}", json={})
    assert (gone.status_code, gone.json()) == (404, {"error": "Share not found or expired"})
    assert (await a.put(path, json={"enabled": True})).json()["urlSharing"]["token"] != token


async def test_a_password_is_asked_for_checked_and_taken_away(house: House, a: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing/url"
    url = (await a.put(path, json={"enabled": True, "password": "s3cret ü"})).json()["urlSharing"]
    shared = f"/v1/sessions/shared/{url['token']}"
    for body in ({}, {"password": None}, {"password": ""}):
        asked = await house.http.post(shared, json=body)
        assert (asked.status_code, asked.json()) == (401, {"error": "Password required", "passwordRequired": True})
        assert "www-authenticate" not in asked.headers
    wrong = await house.http.post(shared, json={"password": "other"})
    assert (wrong.status_code, wrong.json()) == (403, {"error": "Invalid password"})
    assert (await house.http.post(shared, json={"password": "s3cret ü"})).status_code == 200
    stored = await house.db.read(lambda tx: tx.fetch_value("SELECT password_hash FROM res_relay_share_urls"))
    assert stored.startswith("$pbkdf2$")
    assert "s3cret" not in stored
    for kept in ({"enabled": True}, {"enabled": True, "password": ""}):
        await a.put(path, json=kept)
        assert (await house.http.post(shared, json={"password": "s3cret ü"})).status_code == 200
        assert (await house.http.post(shared, json={})).status_code == 401
    await a.put(path, json={"enabled": True, "password": None})
    assert (await house.http.post(shared, json={})).status_code == 200
    for bad in ({"password": "x" * 101, "enabled": True}, {"enabled": "yes"}, {}, {"enabled": True, "permission": "x"}):
        assert (await a.put(path, json=bad)).status_code == 400
    assert (await house.http.post(shared, json={"password": "x" * 101})).status_code == 400
    assert (await house.http.post(shared, content=b"{")).status_code == 400


async def test_passwords_are_tried_so_often_at_most_and_right_ones_do_not_count(
    house: House, a: Guest, session: str
) -> None:
    url = (await a.put(f"/v1/sessions/{session}/sharing/url", json={"enabled": True, "password": "right"})).json()
    shared = f"/v1/sessions/shared/{url['urlSharing']['token']}"
    for _ in range(12):
        assert (await house.http.post(shared, json={"password": "right"})).status_code == 200
    statuses = [(await house.http.post(shared, json={"password": "wrong"})).status_code for _ in range(12)]
    assert statuses == [403] * 10 + [429] * 2
    refused = await house.http.post(shared, json={"password": "right"})
    assert refused.status_code == 429
    assert refused.json() == {"error": "Rate limit exceeded", "retryAfter": int(refused.headers["retry-after"])}
    house.clock.advance(seconds=60)
    assert (await house.http.post(shared, json={"password": "right"})).status_code == 200


async def test_the_token_route_alone_asks_for_no_login(house: House, a: Guest, session: str) -> None:
    for path in ("state", "messages", "nothing", "%2e%2e", session, "x" * 300):
        answer = await house.http.post(f"/v1/sessions/shared/{path}", json={})
        assert (answer.status_code, answer.json()) == (404, {"error": "Share not found or expired"})
        assert (await house.http.get(f"/v1/sessions/shared/{path}")).status_code in (401, 404, 405)
    assert (await house.http.get("/v1/sessions/shared")).status_code in (401, 404)


async def test_an_address_ends_when_it_says_so_and_with_its_session(house: House, a: Guest, session: str) -> None:
    token = (await a.put(f"/v1/sessions/{session}/sharing/url", json={"enabled": True})).json()["urlSharing"]["token"]
    ends = house.clock.now_ms() + 1000
    await house.db.write(lambda tx: tx.execute("UPDATE res_relay_share_urls SET expires_at = :ends", ends=ends))
    assert (await a.get(f"/v1/sessions/{session}/sharing")).json()["urlSharing"]["expiresAt"] == iso_ms(ends)
    assert (await house.http.post(f"/v1/sessions/shared/{token}", json={})).status_code == 200
    house.clock.advance(seconds=2)
    over = await house.http.post(f"/v1/sessions/shared/{token}", json={})
    assert (over.status_code, over.json()) == (404, {"error": "Share has expired"})
    assert (await a.delete(f"/v1/sessions/{session}")).status_code == 200
    assert (await house.http.post(f"/v1/sessions/shared/{token}", json={})).json() == {
        "error": "Share not found or expired"
    }


# --- by mail ---


async def test_somebody_is_invited_and_accepts(house: House, a: Guest, b: Guest, post: Post, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    await a.put("/v1/account", json={"username": "ada"})
    answer = await a.post(f"{path}/invite", json={"email": "  b@EXAMPLE.org ", "permission": "view_and_chat"})
    now = house.clock.now_ms()
    invitation = answer.json()["invitation"]
    assert str(UUID(invitation["id"])) == invitation["id"]
    assert invitation == {
        "id": invitation["id"],
        "email": "b@example.org",
        "permission": "view_and_chat",
        "invitedAt": iso_ms(now),
        "invitedBy": A,
        "status": "pending",
        "expiresAt": iso_ms(now + 7 * DAY * 1000),
    }
    assert (await a.get(path)).json()["invitations"] == [invitation]
    ((address, variables),) = post.sent
    assert (address, variables["days"], variables["inviter"]) == ("b@example.org", "7", "ada")
    assert variables["link"] == f"https://app.example.org/invite/{post.token}"
    assert post.token not in answer.text

    accepted = await b.get(f"/v1/invitations/{post.token}/accept")
    share = accepted.json()["share"]
    assert accepted.json() == {"success": True, "share": share, "sessionId": session}
    assert (share["userId"], share["permission"], share["sharedBy"]) == (B, "view_and_chat", A)
    after = (await a.get(path)).json()
    assert after["invitations"] == []
    assert [one["id"] for one in after["shares"]] == [share["id"]]
    again = await b.get(f"/v1/invitations/{post.token}/accept")
    assert (again.status_code, again.json()) == (404, {"error": "Invitation not found or expired"})


async def test_only_whoever_owns_the_address_accepts(
    house: House, a: Guest, b: Guest, post: Post, session: str
) -> None:
    await a.post(f"/v1/sessions/{session}/sharing", json={"email": "cat@example.org", "permission": "view_only"})
    accept = f"/v1/invitations/{post.token}/accept"
    assert (await house.http.get(accept)).status_code == 401
    other = await b.get(accept)
    assert (other.status_code, other.json()["error"]) == (
        403,
        "This invitation was sent to a different email address",
    )
    c = house.guest("c")
    nobody = await c.get(accept)
    assert (nobody.status_code, nobody.json()["error"]) == (403, "Your account has no verified email address")
    accounts = AccountService(house.db, house.relay.heads, house.relay.updates, house.clock)
    await accounts.change_github(C, {**OCTOCAT, "email": "Cat@Example.org"})
    assert (await c.get(accept)).status_code == 200


async def test_who_has_access_already_cannot_accept(a: Guest, b: Guest, post: Post, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    await a.post(path, json={"email": "a@example.org", "permission": "view_only"})
    own = await a.get(f"/v1/invitations/{post.token}/accept")
    assert (own.status_code, own.json()) == (409, {"error": "You already have access to this session"})
    await a.post(path, json={"userId": B, "permission": "view_only"})
    await a.post(path, json={"email": "b@example.org", "permission": "view_and_chat"})
    second = await b.get(f"/v1/invitations/{post.token}/accept")
    assert (second.status_code, second.json()) == (409, {"error": "You already have access to this session"})
    assert [one["permission"] for one in (await a.get(path)).json()["shares"]] == ["view_only"]


async def test_one_open_invitation_for_an_address_and_it_can_be_taken_back(
    house: House, a: Guest, b: Guest, post: Post, session: str
) -> None:
    path = f"/v1/sessions/{session}/sharing"
    body = {"email": "b@example.org", "permission": "view_only"}
    first = (await a.post(f"{path}/invite", json=body)).json()["invitation"]
    again = await a.post(f"{path}/invite", json={**body, "email": "B@example.org"})
    assert (again.status_code, again.json()) == (409, {"error": "Invitation already sent to this email"})
    token = post.token
    assert (await a.delete(f"{path}/invitations/{first['id']}")).json() == {"success": True}
    gone = await a.delete(f"{path}/invitations/{first['id']}")
    assert (gone.status_code, gone.json()) == (404, {"error": "Invitation not found"})
    assert (await b.get(f"/v1/invitations/{token}/accept")).status_code == 404
    assert (await a.post(f"{path}/invite", json=body)).status_code == 200


async def test_an_invitation_ends_after_seven_days(house: House, a: Guest, b: Guest, post: Post, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    body = {"email": "b@example.org", "permission": "view_only"}
    invitation = (await a.post(f"{path}/invite", json=body)).json()["invitation"]
    house.clock.advance(seconds=7 * DAY)
    over = await b.get(f"/v1/invitations/{post.token}/accept")
    assert (over.status_code, over.json()) == (404, {"error": "Invitation has expired"})
    assert (await a.get(path)).json()["invitations"] == []
    assert (await a.post(f"{path}/invitations/{invitation['id']}/resend")).status_code == 404
    assert (await a.post(f"{path}/invite", json=body)).status_code == 200


async def test_a_resent_invitation_has_another_link_and_seven_more_days(
    house: House, a: Guest, b: Guest, post: Post, session: str
) -> None:
    path = f"/v1/sessions/{session}/sharing"
    first = (await a.post(path, json={"email": "b@example.org", "permission": "view_only"})).json()["invitation"]
    old = post.token
    house.clock.advance(seconds=6 * DAY)
    answer = await a.post(f"{path}/invitations/{first['id']}/resend")
    expires = iso_ms(house.clock.now_ms() + 7 * DAY * 1000)
    assert answer.json() == {"success": True, "invitation": {**first, "expiresAt": expires}}
    assert len(post.sent) == 2
    assert (await b.get(f"/v1/invitations/{old}/accept")).status_code == 404
    house.clock.advance(seconds=2 * DAY)
    assert (await b.get(f"/v1/invitations/{post.token}/accept")).status_code == 200
    assert (await a.post(f"{path}/invitations/{first['id']}/resend")).status_code == 404


async def test_a_mail_that_cannot_be_sent_leaves_no_trace(a: Guest, b: Guest, post: Post, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    body = {"email": "b@example.org", "permission": "view_only"}
    failed = {"error": "Failed to send invitation email", "details": "The mail was not sent"}
    post.away = True
    answer = await a.post(f"{path}/invite", json=body)
    assert (answer.status_code, answer.json()) == (500, failed)
    assert (await a.get(path)).json()["invitations"] == []
    post.away = False
    invitation = (await a.post(f"{path}/invite", json=body)).json()["invitation"]
    post.away = True
    again = await a.post(f"{path}/invitations/{invitation['id']}/resend")
    assert (again.status_code, again.json()) == (500, failed)
    assert (await a.get(path)).json()["invitations"] == [invitation]
    assert (await b.get(f"/v1/invitations/{post.token}/accept")).status_code == 200


async def test_ten_invitations_an_hour(house: House, a: Guest, b: Guest, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing/invite"
    for number in range(10):
        assert (
            await a.post(path, json={"email": f"x{number}@example.org", "permission": "view_only"})
        ).status_code == 200
    refused = await a.post(path, json={"email": "more@example.org", "permission": "view_only"})
    assert refused.status_code == 429
    assert refused.json()["error"] == "Rate limit exceeded. Maximum 10 invitations per hour."
    assert refused.json()["retryAfter"] == int(refused.headers["retry-after"])
    other = await new_session(b)
    body = {"email": "x@example.org", "permission": "view_only"}
    assert (await b.post(f"/v1/sessions/{other}/sharing/invite", json=body)).status_code == 200
    house.clock.advance(seconds=3600)
    assert (await a.post(path, json={"email": "more@example.org", "permission": "view_only"})).status_code == 200


async def test_tokens_are_guessed_so_often_at_most(house: House, b: Guest) -> None:
    statuses = [(await b.get(f"/v1/invitations/guess-{number}/accept")).status_code for number in range(12)]
    assert statuses == [404] * 10 + [429] * 2


async def test_invitations_that_are_over_are_swept(house: House, a: Guest, b: Guest, post: Post, session: str) -> None:
    path = f"/v1/sessions/{session}/sharing"
    for name in ("b", "x"):
        await a.post(path, json={"email": f"{name}@example.org", "permission": "view_only"})
        if name == "b":
            await b.get(f"/v1/invitations/{post.token}/accept")

    async def statuses() -> list[str]:
        rows = await house.db.read(lambda tx: tx.fetch_all("SELECT status FROM res_relay_invitations ORDER BY email"))
        return [row[0] for row in rows]

    sharing = house.relay.sharing
    assert await sharing.sweep() == 0
    house.clock.advance(seconds=7 * DAY)
    assert await sharing.sweep() == 1
    assert await statuses() == ["accepted", "expired"]
    house.clock.advance(seconds=30 * DAY)
    assert await sharing.sweep() == 2
    assert await statuses() == []


async def test_a_session_that_is_deleted_takes_its_sharing_along(
    house: House, a: Guest, b: Guest, post: Post, session: str
) -> None:
    path = f"/v1/sessions/{session}/sharing"
    await a.post(path, json={"userId": C, "permission": "view_only"})
    await a.post(path, json={"email": "b@example.org", "permission": "view_only"})
    await a.put(f"{path}/url", json={"enabled": True})
    await a.delete(f"/v1/sessions/{session}")
    assert (await b.get(f"/v1/invitations/{post.token}/accept")).status_code == 404
    for table in ("res_relay_shares", "res_relay_share_urls", "res_relay_invitations"):
        assert await house.db.read(lambda tx, table=table: tx.fetch_value(f"SELECT count(*) FROM {table}")) == 0
