"""Records, subscriptions and sign-ins over the socket of a whole server, in front of a real PocketBase (contract gateway, B.3, B.10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.gateway.pocketbase_house import PocketBaseHouse
from tests.gateway.socket_house import (
    PATIENCE_SECONDS,
    _gateway,
    log_out,
    open_socket,
    refresh,
    server,
    sign_in,
    view_status,
)
from tests.servers import HaptaServer

__all__ = ["_gateway", "server"]

WRONG = "a.b.c"


async def test_records_are_made_read_listed_changed_and_deleted(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        made = await talk.done("create", {"collection": "posts", "data": {"owner": alice.id, "title": "one"}})
        assert made["title"] == "one"
        asked = {"collection": "posts", "filter": f"owner='{alice.id}'", "sort": "-title", "perPage": 5}
        first = await talk.ask("list", asked)
        assert [item["id"] for item in first["payload"]["items"]] == [made["id"]]
        assert first["payload"]["perPage"] == 5
        async with asyncio.timeout(PATIENCE_SECONDS):  # nothing is kept until the server hears of changes
            while (again := await talk.ask("list", asked))["cache"] != "HIT":
                assert again["payload"] == first["payload"]
        assert again["payload"] == first["payload"]
        changed = await talk.done(
            "update", {"collection": "posts", "id": made["id"], "data": {"title": "two"}, "fields": "id,title"}
        )
        assert changed == {"id": made["id"], "title": "two"}
        read = await talk.done(
            "read",
            {"collection": "posts", "id": made["id"], "expand": ["owner"], "returnable": ["title", "expand.owner.id"]},
        )
        assert read == {"title": "two", "expand": {"owner": {"id": alice.id}}}
        assert (await talk.done("list", asked))["items"][0]["title"] == "two"
        assert await talk.done("delete", {"collection": "POSTS", "id": made["id"]}) == {"id": made["id"]}
        assert await talk.refused("read", {"collection": "posts", "id": made["id"]}) == (404, 404)


async def test_pocketbases_rules_hold_and_nobody_sees_what_another_one_was_answered(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice, bob = pocketbase.person(), pocketbase.person()
    async with (
        open_socket(server, sign_in(server, alice)) as hers,
        open_socket(server, sign_in(server, bob)) as his,
    ):
        post = await hers.done("create", {"collection": "posts", "data": {"owner": alice.id, "title": "mine"}})
        for _ in range(2):
            assert (await hers.done("read", {"collection": "posts", "id": post["id"]}))["title"] == "mine"
            assert await his.refused("read", {"collection": "posts", "id": post["id"]}) == (404, 404)
        change = {"collection": "posts", "id": post["id"], "data": {"title": "his"}}
        assert await his.refused("update", change) == (404, 404)
        assert await his.refused("delete", {"collection": "posts", "id": post["id"]}) == (404, 404)
        assert await his.refused("list", {"collection": "secret"}) == (300, 403)
        assert await his.refused("list", {"collection": "_superusers"}) == (404, 404)
        told = await his.ask("create", {"collection": "posts", "data": {"owner": bob.id, "title": ""}})
        assert (told["error"]["code"], told["error"]["status"]) == (500, 400)
        assert told["error"]["data"]["title"]["code"] == "validation_required"


async def test_a_sender_who_is_nobody_gets_an_error_and_nothing_else(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    pocketbase.create("notes", title="for everybody")
    async with open_socket(server) as talk:
        for kind in ("list", "read", "create", "delete", "subscribe", "ping", "file.get", "upload.begin", "logout"):
            asked = {"collection": "notes", "id": "x", "data": {"title": "x"}, "method": "list"}
            assert await talk.refused(kind, asked) == (304, 401), kind
        assert await talk.refused("nothing of the kind") == (103, 400)
        assert talk.pushed == talk.frames
        assert await talk.refused("auth", token=WRONG) == (1, 401)
        assert await talk.closed() == 4401


async def test_a_password_signs_in_and_the_socket_stays_that_persons(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice, bob = pocketbase.person(), pocketbase.person()
    async with open_socket(server) as talk:
        wrong = {"email": alice.email, "password": "not the password"}
        assert await talk.refused("authWithPassword", wrong) == (200, 400)
        told = await talk.done("authWithPassword", {"email": alice.email, "password": alice.password})
        assert told["record"]["id"] == alice.id
        assert told["identity"] == {"collectionId": alice.collection_id, "id": alice.id}
        assert told["token"].count(".") == 2
        assert (await talk.done("authUpdate", {"id": bob.id}))["id"] == alice.id
        his = {"email": bob.email, "password": bob.password}
        assert await talk.refused("authWithPassword", his) == (106, 403)
        assert await talk.refused("auth", token=sign_in(server, bob)) == (106, 403)
        assert (await talk.done("authUpdate"))["id"] == alice.id
        # The token is good elsewhere too.
        assert refresh(server, told["token"])[0] == 200


async def test_a_second_factor_is_asked_for(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person(two_factors=True)
    async with open_socket(server) as talk:
        told = await talk.ask("authWithPassword", {"username": alice.record["username"], "password": alice.password})
        assert told["error"]["status"] == 401
        assert len(told["error"]["data"]["mfaId"]) == 15
        assert await talk.refused("ping") == (304, 401)


async def test_channels_are_the_servers_and_change_with_each_session(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    token, other = sign_in(server, alice), sign_in(server, alice)
    channels: set[str] = set()
    for _ in range(2):
        async with open_socket(server) as talk:
            told = await talk.done("authSession", token=token, session="a channel of mine")
            assert told["message"] == "success"
            channels.add(told["channel"])
            channels.add((await talk.done("auth", token=token))["channel"])
            channels.add((await talk.done("auth", token=other))["channel"])
    assert len(channels) == 4
    assert all(len(channel) >= 32 for channel in channels)


async def test_events_come_to_whoever_may_see_the_record_under_his_own_channel(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice, bob = pocketbase.person(), pocketbase.person()
    async with (
        open_socket(server, sign_in(server, alice)) as hers,
        open_socket(server, sign_in(server, bob)) as his,
    ):
        for talk in (hers, his):
            told = await talk.done("subscribe", {"collection": "posts", "key": "k"})
            assert told == {"key": "k", "topic": "posts/*", "channel": talk.channel}
        made = pocketbase.create("posts", owner=alice.id, title="hidden")
        open_one = pocketbase.create("posts", owner=alice.id, title="shown", published=True)
        seen = [await hers.push("subscription") for _ in range(2)]
        assert {event["payload"]["record"]["id"] for event in seen} == {made["id"], open_one["id"]}
        event = await his.push("subscription")
        assert event["payload"]["record"]["id"] == open_one["id"]
        assert (event["event"], event["key"], event["channel"]) == ("create", "k", his.channel)
        assert hers.channel != his.channel
        assert await hers.done("unsubscribe", {"key": "k"}) == {"removed": 1}
        pocketbase.update("posts", open_one["id"], title="again")
        assert (await his.push("subscription"))["event"] == "update"
        await hers.done("ping")
        assert not [told for told in hers.pushed if told["type"] == "subscription" and told["event"] == "update"]


async def test_subscriptions_choose_kinds_of_events_and_one_record(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    post = pocketbase.create("posts", owner=alice.id, title="one")
    async with open_socket(server, sign_in(server, alice)) as talk:
        await talk.done("subscribe", {"collection": "posts", "id": post["id"], "event": "delete", "key": "gone"})
        await talk.done("subscribe", {"topic": f"posts/{post['id']}", "key": "all"})
        asked = {"collection": "posts", "expand": ["owner"], "fields": ["title", "expand.owner.id"], "key": "some"}
        told = await talk.done("subscribe", asked)
        assert "?options=" in told["topic"]
        pocketbase.update("posts", post["id"], title="two")
        events = {(event := await talk.push("subscription"))["key"]: event for _ in range(2)}
        assert events.keys() == {"all", "some"}
        assert events["some"]["payload"]["record"] == {"title": "two", "expand": {"owner": {"id": alice.id}}}
        pocketbase.delete("posts", post["id"])
        assert {(await talk.push("subscription"))["key"] for _ in range(3)} == {"all", "some", "gone"}
        assert await talk.refused("subscribe", {"topic": "_superusers/*"}) == (404, 404)
        assert await talk.refused("subscribe", {"topic": "@oauth2"}) == (103, 400)
        assert await talk.refused("subscribe", {"collection": "posts", "event": "truncate"}) == (103, 400)
        assert await talk.done("unsubscribe") == {"removed": 3}


@pytest.mark.parametrize("how", ["here", "elsewhere", "all"])
async def test_a_session_takes_its_sockets_with_it(server: HaptaServer, pocketbase: PocketBaseHouse, how: str) -> None:
    alice = pocketbase.person()
    token = sign_in(server, alice)
    async with open_socket(server, token) as talk, open_socket(server, sign_in(server, alice)) as other:
        await talk.done("subscribe", {"collection": "posts"})
        if how == "here":
            assert await talk.done("logout") == {"ended": 1}
        elif how == "all":
            assert await talk.done("logout", {"all": True}) == {"ended": 2}
        else:
            log_out(server, token)
        assert await talk.closed() == 4401
        if how == "all":
            assert await other.closed() == 4401
        else:
            assert (await other.done("ping", {"time": 5}))["time"] == 5
    async with open_socket(server) as again:
        assert await again.refused("auth", token=token) == (1, 401)


async def test_the_token_rolls_over_the_socket_and_an_old_one_ends_the_session(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    token = sign_in(server, alice)
    async with open_socket(server, token) as talk:
        old = {"type": "auth_roll_token", "payload": {"type": "mine"}, "security": {"token": token}, "callback": "cb"}
        await talk.wire.send(json.dumps(old))
        told = await talk.answer("cb")
        assert told["callback"] == "cb"
        assert told["payload"]["callback"] == "cb"
        assert told["payload"]["type"] == "mine"
        assert told["payload"]["record"]["id"] == alice.id
        new = told["payload"]["token"]
        assert new != token
        # Nobody has used the new one yet: the same successor for whoever asks again.
        async with open_socket(server, token) as twin:
            assert (await twin.done("auth_roll_token"))["token"] == new
        rolled = await talk.done("auth_roll_token", token=new)
        assert rolled["token"] not in (token, new)
        # The session was rolled over this socket, so it lives on, and its own messages show no token.
        assert (await talk.done("authUpdate"))["id"] == alice.id


async def test_a_socket_that_was_silent_while_its_session_rolled_elsewhere_goes_on(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    server = new_gateway(pocketbase, HAPTA_GATEWAY_GRACE_SECONDS="0")
    alice = pocketbase.person()
    token = sign_in(server, alice)
    async with open_socket(server, token) as talk:
        _, second = refresh(server, token)
        _, third = refresh(server, second)
        assert (await talk.done("authUpdate"))["id"] == alice.id
        # Shown again, though, the first one is somebody else's: the family ends.
        async with open_socket(server) as thief:
            assert await thief.refused("auth", token=token) == (1, 401)
        assert await talk.closed() == 4401
    assert refresh(server, third)[0] == 401


async def test_the_password_is_changed_with_ones_own_rights_and_ends_the_session(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        wrong = {"oldPassword": "not the password", "newPassword": "another password"}
        assert (await talk.refused("changePassword", wrong))[1] == 400
        right = {"oldPassword": alice.password, "newPassword": "another password"}
        assert (await talk.done("changePassword", right))["id"] == alice.id
        assert await talk.closed() == 4401
    async with open_socket(server) as talk:
        told = await talk.done("authWithPassword", {"identity": alice.email, "password": "another password"})
        assert told["record"]["id"] == alice.id
        # Whether a name is taken, only those may learn who may see its record.
        assert await talk.refused("checkUsername", {"username": "x"}) == (103, 400)


async def test_older_clients_names_are_understood(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    token = sign_in(server, alice)
    async with open_socket(server) as talk:

        async def say(**message: object) -> object:
            await talk.wire.send(json.dumps(message))
            told = await talk.answer(message["key"])
            assert told["key"] == message["key"]
            assert told["ok"], told
            return told["payload"]

        await say(type="authSession", token=token, session="s", key=1)
        record = {"collection": "posts", "record": {"owner": alice.id, "title": "t"}, "invalidateCache": ["posts"]}
        made = await say(type="create", token=token, data=record, key="a", session="s")
        assert isinstance(made, dict)
        asked = {"collection": "posts", "limit": 1, "offset": 0, "filter": f"owner='{alice.id}'", "cacheKey": "bob"}
        listed = await say(type="list", data=asked | {"returnable": ["id"]}, key="b")
        assert listed == {"page": 1, "perPage": 1, "totalItems": 1, "totalPages": 1, "items": [{"id": made["id"]}]}
        new = {"collection": "posts", "page": 2, "limit": 1, "options": {"sort": "title", "order": "desc"}}
        assert await say(type="list", payload=new, key="c")
        assert await say(type="get", collection="posts", id=made["id"], key="d") == made
        fields = {"title": "u"}
        changed = await say(type="update", data={"collection": "posts", "id": made["id"], "fields": fields}, key="e")
        assert isinstance(changed, dict)
        assert changed["title"] == "u"
        number = {"collection": "posts", "expand": 5}
        assert await talk.refused("list", number) == (1001, 400)
        assert await talk.refused("list", {"collection": "posts", "filter": 5}) == (1004, 400)
        assert await talk.refused("list", {"collection": "posts", "returnable": 5}) == (1002, 400)
        assert await talk.refused("list", {}) == (1000, 400)


async def test_what_is_no_message_is_refused_and_ends_the_socket_when_it_goes_on(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    alice = pocketbase.person()
    deep = '{"id":"d","type":"list","payload":' + '{"a":' * 80 + "1" + "}" * 81
    bad = ["", "{", "[]", "null", '{"type":5}', '{"type":"list","type":"list"}', '{"type":"list","payload":[]}', deep]
    bad += ['{"type":"list","id":{}}', "[" * 5000, '{"id":1,"type":"list","payload":{"n":NaN}}']
    async with open_socket(server, sign_in(server, alice)) as talk:
        for text in bad:
            await talk.wire.send(text)
            told = await talk.answer(None)
            assert (told["error"]["code"], told["error"]["status"]) == (103, 400), text
        for frame in (b"", b"x" * 10, b"x" * 40):
            await talk.wire.send(frame)
            assert (await talk.answer(None))["error"]["code"] == 103
        assert await talk.done("ping")
        await talk.wire.send("{")
        await talk.wire.send("{")
        assert await talk.closed() == 1008


async def test_a_frame_of_more_than_a_mebibyte_ends_the_socket(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    async with open_socket(server, sign_in(server, pocketbase.person())) as talk:
        await talk.send("create", {"collection": "notes", "data": {"title": "x", "body": "x" * 1024 * 1024}})
        assert await talk.closed() == 1009


async def test_many_messages_at_a_time_are_all_answered(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    counter = pocketbase.create("counters", name="c", n=0)
    async with open_socket(server, sign_in(server, alice)) as talk:
        change = {"collection": "counters", "id": counter["id"], "data": {"n+": 1}}
        asked = [await talk.send("update", change) for _ in range(100)]
        told = [await talk.answer(message_id) for message_id in asked]
        assert all(answer["ok"] for answer in told)
        assert (await talk.done("read", {"collection": "counters", "id": counter["id"]}))["n"] == 100


async def test_a_write_goes_on_when_its_sender_goes_away(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person()
    counter = pocketbase.create("counters", name="c", n=0)
    token = sign_in(server, alice)
    async with open_socket(server, token) as watch:
        await watch.done("subscribe", {"collection": "counters", "id": counter["id"]})
        async with open_socket(server, token) as talk:
            change = {"collection": "counters", "id": counter["id"], "data": {"n+": 1}}
            for _ in range(20):
                await talk.send("update", change)
            # What the server has not read when the sender goes, nobody promised: this is answered after all of them were.
            await talk.done("ping")
        while (await watch.push("subscription"))["payload"]["record"]["n"] < 20:
            pass


async def test_limits_count_messages_as_requests_and_say_how_one_stands(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    limits = {"view": {"limit": 3, "every": 600000}, "connect": {"limit": 4, "every": 600000, "by": ["ip"]}}
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(limits))
    alice = pocketbase.person()
    note = pocketbase.create("notes", title="x")
    token = sign_in(server, alice)
    asked = {"collection": "notes", "id": note["id"]}
    async with open_socket(server, token) as talk:
        state = await talk.done("isRatelimited", {"method": "read"})
        assert state == {"ratelimited": False, "duration": 600000, "limit": 3, "used": 0, "retryAfter": 0}
        for _ in range(3):
            await talk.done("read", asked)
        told = await talk.ask("read", asked)
        assert (told["error"]["code"], told["error"]["status"]) == (600, 429)
        assert told["error"]["retryAfter"] >= 1
        assert (await talk.done("isRatelimited", {"method": "view"}))["ratelimited"] is True
        assert await talk.refused("isRatelimited", {"method": "nothing"}) == (103, 400)
    # A reconnect brings no new budget, nor does HTTP.
    async with open_socket(server, token) as talk:
        assert await talk.refused("read", asked) == (600, 429)
    assert view_status(server, token, "notes", note["id"]) == 429
    for _ in range(2):
        async with open_socket(server) as talk:
            assert await talk.refused("ping") == (304, 401)
    async with open_socket(server) as talk:
        assert (await talk.answer(None))["error"]["code"] == 600
        assert await talk.closed() == 1008


async def test_sockets_of_one_person_are_counted(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    server = new_gateway(pocketbase, HAPTA_GATEWAY_MAX_STREAMS_PER_IDENTITY="2")
    token = sign_in(server, pocketbase.person())
    async with open_socket(server, token), open_socket(server, token):
        async with open_socket(server) as third:
            assert await third.refused("auth", token=token) == (600, 429)
        async with open_socket(server, sign_in(server, pocketbase.person())) as another:
            await another.done("ping")


async def test_a_token_in_the_handshake_signs_in(server: HaptaServer, pocketbase: PocketBaseHouse) -> None:
    token = sign_in(server, pocketbase.person())
    headers = {"authorization": f"Bearer {token}"}
    async with open_socket(server, additional_headers=headers) as talk:
        assert (await talk.answer(None))["payload"]["message"] == "success"
        await talk.done("ping")
    async with open_socket(server, additional_headers={"authorization": WRONG}) as talk:
        assert (await talk.answer(None))["error"]["status"] == 401
        assert await talk.closed() == 4401


async def test_the_server_says_that_it_stops(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    server = new_gateway(pocketbase)
    async with open_socket(server, sign_in(server, pocketbase.person())) as talk:
        await talk.done("subscribe", {"collection": "notes"})
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        assert await talk.closed() == 1012
        assert await stopping == 0


async def test_a_reader_that_is_too_slow_is_closed(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    server = new_gateway(pocketbase, HAPTA_GATEWAY_STREAM_QUEUE="4")
    alice = pocketbase.person()
    token = sign_in(server, alice)
    async with open_socket(server, token) as quick, open_socket(server, token, max_queue=1) as slow:
        for talk in (quick, slow):
            await talk.done("subscribe", {"collection": "posts"})
        text = "x" * 99_000
        for number in range(200):
            pocketbase.create("posts", owner=alice.id, title=f"{number}", text=text)
            assert (await quick.push("subscription"))["event"] == "create"
        assert await slow.closed() == 1008
        await quick.done("ping")


async def test_whoever_is_cut_off_loses_his_socket(
    pocketbase: PocketBaseHouse, new_gateway: Callable[..., HaptaServer]
) -> None:
    limits = {"view": {"limit": 1, "every": 600000, "maxUses": 3, "by": ["identity"]}}
    server = new_gateway(pocketbase, HAPTA_GATEWAY_LIMITS=json.dumps(limits))
    note = pocketbase.create("notes", title="x")
    async with (
        open_socket(server, sign_in(server, pocketbase.person())) as talk,
        open_socket(server, sign_in(server, pocketbase.person())) as other,
    ):
        for _ in range(5):
            await talk.send("read", {"collection": "notes", "id": note["id"]})
        assert await talk.closed() == 1008
        await other.done("read", {"collection": "notes", "id": note["id"]})


async def test_while_pocketbase_is_away_the_socket_says_so_and_goes_on_afterwards(
    new_pocketbase: Callable[[], PocketBaseHouse], new_gateway: Callable[..., HaptaServer]
) -> None:
    house = new_pocketbase()
    server = new_gateway(house)
    alice = house.person()
    async with open_socket(server, sign_in(server, alice)) as talk:
        made = await talk.done("create", {"collection": "posts", "data": {"owner": alice.id, "title": "x"}})
        house.server.kill()
        change = {"collection": "posts", "id": made["id"], "data": {"title": "y"}}
        code, status = await talk.refused("update", change)
        assert (code, status in (502, 503)) == (400, True)
        await asyncio.to_thread(house.server.start)
        while not (told := await talk.ask("update", change))["ok"]:
            assert told["error"]["code"] == 400, told
        assert told["payload"]["title"] == "y"


async def test_nothing_that_a_payload_may_hold_is_a_fault_of_the_servers(
    server: HaptaServer, pocketbase: PocketBaseHouse
) -> None:
    kinds = [
        "auth", "authWithPassword", "authUpdate", "auth_roll_token", "changePassword", "oauth.start", "list", "read",
        "create", "update", "delete", "subscribe", "unsubscribe", "isRatelimited", "ping", "upload.begin", "upload.end",
        "upload.abort", "file.get", "file.ack", "file.abort",
    ]  # fmt: skip
    names = [
        "collection", "id", "record", "recordId", "data", "fields", "filter", "sort", "expand", "returnable", "page",
        "perPage", "limit", "offset", "query", "options", "key", "topic", "event", "method", "field", "name", "size",
        "sha256", "filename", "thumb", "range", "seq", "upload", "file", "oldPassword", "newPassword", "identity",
        "password", "provider", "scopes", "createData", "redirectUrl", "time",
    ]  # fmt: skip
    silent = ("upload.end", "upload.abort", "file.ack", "file.abort")
    values: list[object] = [None, -1, 10**300, "../\u0000", [1, "a"], {"a": {}}]
    note = pocketbase.create("notes", title="n")
    usual = {"collection": "notes", "id": note["id"], "data": {"title": "t"}, "field": "attachment", "size": 3}
    token = sign_in(server, pocketbase.person())
    async with open_socket(server, token) as talk:
        for kind in kinds:
            # What an upload begins waits for its bytes, unless the very member is wrong that says how many.
            given = [name for name in names if kind != "upload.begin" or name in usual]
            cases = [{**usual, name: value} for name in given for value in values]
            for start in range(0, len(cases), 16):
                asked = [await talk.send(kind, case) for case in cases[start : start + 16]]
                after = await talk.send("ping")
                if kind not in silent:
                    for case, message_id in zip(cases[start:], asked, strict=False):
                        told = await talk.answer(message_id)
                        assert told["ok"] or told["error"]["code"] != 900, (kind, case, told)
                assert (await talk.answer(after))["ok"]
