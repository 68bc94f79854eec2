"""The PocketBase of the tests themselves: that it has what they count on, and starts afresh for each."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.gateway.pocketbase_house import PocketBaseHouse


def test_the_pocketbase_of_tests_has_the_whole_schema_and_sends_mail(pocketbase: PocketBaseHouse) -> None:
    alice = pocketbase.person("alice")
    post = pocketbase.create("posts", owner=alice.id, title="one")
    assert post["collectionId"] == "pbc_posts"
    pocketbase.create("comments", post=post["id"], text="hi")
    assert pocketbase.records("post_stats")[0]["comments"] == 1
    pocketbase.delete("posts", post["id"])
    assert pocketbase.records("comments") == []
    assert alice.token
    pocketbase.http.post("/api/collections/users/request-otp", json={"email": alice.email}).raise_for_status()
    to, subject, text = pocketbase.mails.next(holding=r"\d{8}")
    assert to == [alice.email], subject
    assert re.search(r"\d{8}", text)


def test_records_of_one_test_are_not_in_the_next(pocketbase: PocketBaseHouse) -> None:
    assert pocketbase.records("users") == []


def test_a_person_with_two_factors_is_asked_for_the_second(pocketbase: PocketBaseHouse) -> None:
    bob = pocketbase.person("bob", two_factors=True)
    answer = pocketbase.http.post(
        "/api/collections/users/auth-with-password", json={"identity": "bob", "password": bob.password}
    )
    assert answer.status_code == 401
    assert answer.json().keys() == {"mfaId"}


def test_a_pocketbase_of_its_own_can_be_killed_and_started_again(
    new_pocketbase: Callable[[], PocketBaseHouse],
) -> None:
    house = new_pocketbase()
    note = house.create("notes", title="kept")
    house.server.restart()
    assert house.records("notes")[0]["id"] == note["id"]
