"""What an app does with the Python SDK, call by call; run as a program of its own, which prints what each call gave or threw.

Given as one JSON argument: the SDK's base address, the address where mails are read, a picture. No check is made here.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import queue
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from pocketbase import PocketBase
from pocketbase.errors import ClientResponseError
from pocketbase.models import FileUpload
from pocketbase.models.record import Record

given = json.loads(sys.argv[1])
BASE, MAILBOX, PICTURE = given["base"], given["mailbox"], base64.b64decode(given["picture"])
ALICE, BOB = "alice0000000000", "bob000000000000"
found: dict[str, Any] = {}


def simple(value: Any) -> Any:
    """Anything of the SDK as JSON."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, dict):
        return {key: simple(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [simple(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return simple(dataclasses.asdict(value))
    if hasattr(value, "__dict__"):
        return simple(vars(value))
    return value


def step(name: str, call: Callable[[], Any]) -> Any:
    assert name not in found, name
    try:
        value = call()
        found[name] = {"gave": simple(value)}
    except ClientResponseError as error:
        found[name] = {"threw": error.status, "data": error.data}
        return None
    return value


def mail() -> str:
    with urllib.request.urlopen(MAILBOX) as answer:
        return json.load(answer)["text"]


def linked(page: str) -> str:
    match = re.search(rf"/{page}/([\w.-]+)", mail())
    assert match is not None
    return match[1]


def fetched(url: str, **headers: str) -> Any:
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        body = answer.read()
        wanted = ("content-type", "content-range", "content-disposition", "accept-ranges")
        told = {name: answer.headers.get(name) for name in wanted}
        status = answer.status or 0
        return [status, told, hashlib.sha256(body).hexdigest() if status < 400 else body.decode()]


def fresh() -> PocketBase:
    return PocketBase(BASE, timeout=120)


guest, alice, bob = fresh(), fresh(), fresh()
people, notes, posts = guest.collection("users"), guest.collection("notes"), alice.collection("posts")


def signing_in() -> None:
    step("health", lambda: guest.health.check())
    step("auth methods", lambda: people.list_auth_methods())
    eve = {"email": "eve@example.com", "username": "eve", "password": "eve-password", "passwordConfirm": "eve-password"}
    step("sign up", lambda: people.create(eve))
    step("sign up twice", lambda: people.create(eve))
    step("wrong password", lambda: alice.collection("users").auth_with_password("alice@example.com", "wrong"))
    step("password", lambda: alice.collection("users").auth_with_password("alice@example.com", "alice-password"))
    step("password by name", lambda: bob.collection("users").auth_with_password("bob", "bob-password"))
    step(
        "login expand and fields",
        lambda: (
            fresh()
            .collection("users")
            .auth_with_password(
                "alice",
                "alice-password",
                query_params={"expand": "following", "fields": "token,record.id,record.expand"},
            )
        ),
    )
    step("blocked", lambda: fresh().collection("users").auth_with_password("dave", "dave-password"))
    step("staff", lambda: fresh().collection("staff").auth_with_password("boss@example.com", "boss-password"))
    step("refresh", lambda: alice.collection("users").auth_refresh())
    step("refresh as nobody", lambda: people.auth_refresh())
    step("refresh elsewhere", lambda: alice.collection("staff").auth_refresh())


def reading() -> None:
    step("list", lambda: notes.get_list(2, 5, {"sort": "rank"}))
    step("full list", lambda: notes.get_full_list(10, {"sort": "-rank"}))
    step("first item", lambda: notes.get_first_list_item(guest.filter("title = {:title}", {"title": "it's 7"})))
    step("no first item", lambda: notes.get_first_list_item('title = "none"'))
    step("one", lambda: notes.get_one("note00000000003"))
    step("fields", lambda: notes.get_one("note00000000003", {"fields": "id,title:excerpt(3,true)"}))
    step("filter and sort", lambda: notes.get_list(1, 30, {"filter": "rank > 3 && done = true", "sort": "-rank"}))
    step("skip the total", lambda: notes.get_list(1, 3, {"skipTotal": 1, "sort": "rank"}))
    step("repeated", lambda: [notes.get_list(1, 5, {"sort": "rank"}) for _ in range(3)])
    step("expand", lambda: posts.get_list(1, 9, {"expand": "owner,related.owner", "sort": "title"}))
    step("back relations", lambda: posts.get_one("post00000000001", {"expand": "comments_via_post.author"}))
    step("people seen by one", lambda: alice.collection("users").get_full_list(50, {"sort": "username"}))
    step("people seen by another", lambda: bob.collection("users").get_full_list(50, {"sort": "username"}))
    step("people seen by nobody", lambda: people.get_full_list())
    step("private", lambda: alice.collection("private").get_full_list())
    step("private of another", lambda: bob.collection("private").get_one("private00000001"))
    step("by id of the collection", lambda: guest.collection("pbc_notes").get_one("note00000000001"))
    step("by another case", lambda: guest.collection("Notes").get_one("note00000000001"))
    step("rooms", lambda: alice.collection("rooms").get_full_list())
    step("messages of others", lambda: bob.collection("messages").get_full_list())
    step("rule on the query", lambda: guest.collection("guarded").get_list(1, 9, {"key": "open"}))
    step("rule on headers", lambda: guest.collection("guarded").get_one("guarded00000001"))
    step("view", lambda: guest.collection("post_stats").get_full_list(9, {"sort": "title"}))
    step("record that is not", lambda: notes.get_one("note00000099999"))
    step("id with a slash", lambda: notes.get_one("a/b"))
    step("id of other letters", lambda: notes.get_one("é?x#y z"))
    step("collection that is not", lambda: guest.collection("nothing").get_list())
    step("closed collection", lambda: guest.collection("secret").get_list())
    step("unknown field in filter", lambda: notes.get_list(1, 9, {"filter": "colour = 1"}))
    step("filter of superusers", lambda: notes.get_list(1, 9, {"filter": '@collection.secret.text ?= "x"'}))
    step("route that is not", lambda: guest.send("/api/nothing", {}))


def writing() -> None:
    made = {"id": "made00000000001", "title": "made", "rank": 1.5, "done": True, "meta": {"deep": [1, {"b": None}]}}
    step("create", lambda: notes.create(made))
    step("create the same", lambda: notes.create(made))
    step("create without a title", lambda: notes.create({"rank": 2}))
    step("update", lambda: notes.update("made00000000001", {"title": "changed", "rank+": 2}, {"fields": "title,rank"}))
    step("update what is not", lambda: notes.update("made00000099999", {"title": "x"}))
    step("delete", lambda: notes.delete("made00000000001"))
    step("delete again", lambda: notes.delete("made00000000001"))
    step("refused update", lambda: bob.collection("posts").update("post00000000001", {"title": "mine"}))
    step("refused create", lambda: bob.collection("posts").create({"owner": ALICE, "title": "for her"}))
    step("refused delete", lambda: bob.collection("posts").delete("post00000000001"))
    one = {"id": "made00000000002", "owner": ALICE, "title": "é", "tags": ["red"], "score": 5}
    step("create with expand", lambda: posts.create(one, {"expand": "owner"}))
    step(
        "modifiers",
        lambda: posts.update("made00000000002", {"tags+": ["green"], "score-": 2, "related+": ["post00000000001"]}),
    )
    step("a mistake", lambda: posts.update("made00000000002", {"kind": "opera"}))
    step("own profile", lambda: alice.collection("users").update(ALICE, {"name": "Alice!"}))
    step("profile of another", lambda: alice.collection("users").update(BOB, {"name": "Bob!"}))
    step("counted", lambda: [guest.collection("counters").update("counter00000001", {"n+": 2}) for _ in range(4)])
    step(
        "cascade",
        lambda: [posts.delete("post00000000003"), alice.collection("comments").get_full_list(9, {"sort": "text,id"})],
    )


def with_files() -> None:
    files = alice.collection("files")
    image = FileUpload(("dot.png", PICTURE, "image/png"))
    several = FileUpload(("aaa.txt", b"aaa", "text/plain"), ("bbb.txt", b"bbbb", "text/plain"))
    body = {"id": "made00000000003", "owner": ALICE, "image": image, "documents": several}
    made: Record = step("upload", lambda: files.create(body))
    protected = FileUpload(("secret.txt", b"secret", "text/plain"))
    kept: Record = step("upload protected", lambda: files.update(made.id, {"protected": protected}))
    added = FileUpload(("ccc.txt", b"ccccc", "text/plain"))
    more: Record = step("append", lambda: files.update(made.id, {"documents+": added}))
    documents: list[str] = more.documents  # pyright: ignore[reportAttributeAccessIssue]
    step("remove", lambda: files.update(made.id, {"documents-": [documents[0]]}))
    step(
        "upload of another type",
        lambda: files.create({"owner": ALICE, "image": FileUpload(("xxx.png", b"none", "image/png"))}),
    )
    image_name: str = made.image  # pyright: ignore[reportAttributeAccessIssue]
    secret_name: str = kept.protected  # pyright: ignore[reportAttributeAccessIssue]
    address = alice.files.get_url
    step("file", lambda: fetched(address(made, image_name)))
    step("thumb", lambda: fetched(address(made, image_name, {"thumb": "0x50"})))
    step("download", lambda: fetched(address(made, image_name, {"download": 1})))
    step("range", lambda: fetched(address(made, image_name), Range="bytes=-7"))
    step("protected", lambda: fetched(address(made, secret_name)))
    token = step("file token", lambda: alice.files.get_token())
    step("protected with its token", lambda: fetched(address(made, secret_name, {"token": token})))
    step("file token of nobody", lambda: guest.files.get_token())


def listening() -> None:
    told: queue.Queue[Any] = queue.Queue()
    heard = queue.Queue[str]()
    # The SDK tells nobody when it listens; its own answer to the greeting does.
    alice.after_send = lambda response, data, config: (heard.put(response.url.path), data)[1]  # type: ignore[method-assign]

    def listen() -> None:
        listening = False
        while not listening:  # it counts on being quicker with its listener than the server with its greeting
            alice.realtime.unsubscribe()
            alice.collection("notes").subscribe(
                lambda event: told.put(["notes", event.action, vars(event.record)["title"]])
            )
            with contextlib.suppress(queue.Empty):
                listening = heard.get(timeout=5).endswith("/api/realtime")

    def one_more() -> None:
        alice.collection("counters").subscribe_one("counter00000001", lambda event: told.put(["n", event.action]))

    def write() -> Any:
        notes.update("note00000000001", {"title": "loud"})
        first = told.get(timeout=120)
        made = notes.create({"title": "heard"})
        second = told.get(timeout=120)
        notes.delete(made.id)
        third = told.get(timeout=120)
        guest.collection("counters").update("counter00000001", {"n+": 1})
        return [first, second, third, told.get(timeout=120)]

    def silence() -> Any:
        alice.collection("notes").unsubscribe()
        notes.update("note00000000001", {"title": "louder"})
        guest.collection("counters").update("counter00000001", {"n+": 1})
        return told.get(timeout=120)

    step("subscribe", listen)
    step("subscribe to one", one_more)
    step("events", write)
    step("unsubscribe", silence)
    step("unsubscribe all", lambda: alice.realtime.unsubscribe())


def by_mail() -> None:
    def code_of(address: str) -> tuple[str, str]:
        asked = guest.send("/api/collections/users/request-otp", {"method": "POST", "body": {"email": address}})
        match = re.search(r"\b\d{8}\b", mail())
        assert match is not None
        return asked["otpId"], match[0]

    def with_code(address: str, **more: str) -> Any:
        otp_id, code = code_of(address)
        body = {"otpId": otp_id, "password": code, **more}
        return guest.send("/api/collections/users/auth-with-otp", {"method": "POST", "body": body})

    def first_factor() -> Any:
        try:
            return fresh().collection("users").auth_with_password("carol", "carol-password")
        except ClientResponseError as error:
            return [error.status, error.data]

    step("code by mail", lambda: with_code("bob@example.com"))
    first = step("first factor", first_factor)
    step("second factor", lambda: with_code("carol@example.com", mfaId=first[1]["mfaId"]))
    step("ask for verification", lambda: people.request_verification("eve@example.com"))
    step("verify", lambda: people.confirm_verification(linked("confirm-verification")))
    step("verify with a bad token", lambda: people.confirm_verification("nothing"))
    step("ask for a reset", lambda: people.request_password_reset("eve@example.com"))
    step(
        "reset", lambda: people.confirm_password_reset(linked("confirm-password-reset"), "new-password", "new-password")
    )
    eve = fresh()
    step("old password", lambda: eve.collection("users").auth_with_password("eve", "eve-password"))
    step("new password", lambda: eve.collection("users").auth_with_password("eve", "new-password"))
    step("ask for another address", lambda: eve.collection("users").request_email_change("eva@example.com"))
    step("another address", lambda: people.confirm_email_change(linked("confirm-email-change"), "new-password"))
    step("session of the old address", lambda: eve.collection("users").auth_refresh())
    step("ask for another address as nobody", lambda: people.request_email_change("x@example.com"))
    step("new address", lambda: eve.collection("users").auth_with_password("eva@example.com", "new-password"))
    assert eve.auth_store.model is not None
    own = eve.auth_store.model.id
    step("leave", lambda: eve.collection("users").delete(own))
    step("gone", lambda: eve.collection("users").auth_with_password("eva@example.com", "new-password"))


for part in (signing_in, reading, writing, with_files, listening, by_mail):
    part()
print(json.dumps(found), flush=True)
os._exit(0)  # the SDK's listening thread never ends
