"""A login to PocketBase and the account of ours that belongs to it: found again, made once, and never somebody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hapta.gateway.auth.accounts.service import Accounts, birth_of
from hapta.identity.models import NewPerson, Origin, Person
from hapta.kit.access import UserId
from hapta.kit.errors import InvalidToken
from tests.gateway.auth_house import AuthHouse, NewAuthHouse, house, new_house

__all__ = ["house", "new_house"]


async def account_of(house: AuthHouse, token: str) -> Person:
    caller = await house.verifier.verify(token)
    person = await house.core.people.find(caller.user_id)
    assert person is not None
    return person


async def test_a_first_login_makes_an_account_and_the_next_one_finds_it(house: AuthHouse) -> None:
    alice, bob = house.upstream.person("alice"), house.upstream.person("bob")
    first, second = await house.token_of(alice), await house.token_of(alice)
    person = await account_of(house, first)
    assert (person.email, person.email_verified, person.has_password) == (alice.email, True, False)
    assert person.roles == ("user",)
    assert person.profile.name == "alice"
    assert await account_of(house, second) == person
    assert (await account_of(house, await house.token_of(bob))).user_id != person.user_id


async def test_a_gateway_token_opens_the_rest_of_the_server_until_its_session_ends(house: AuthHouse) -> None:
    token = await house.token_of(house.upstream.person("alice"))
    assert house.verifier.is_ours(token)
    assert not house.verifier.is_ours(house.upstream.token)
    caller = await house.verifier.verify(token)
    assert (caller.client_id, caller.roles, caller.generation) == (None, frozenset({"user"}), 1)
    assert house.verifier.cached(token) == caller
    await house.sessions.revoke(caller.session_id, "operator")
    assert house.verifier.cached(token) is None
    with pytest.raises(InvalidToken):
        await house.verifier.verify(token)
    for other in ("nonsense", house.upstream.token):
        assert house.verifier.cached(other) is None
        with pytest.raises(InvalidToken):
            await house.verifier.verify(other)


async def test_what_was_verified_is_believed_for_a_second(house: AuthHouse) -> None:
    token = await house.token_of(house.upstream.person("alice"))
    caller = await house.verifier.verify(token)
    await house.core.people.set_disabled(caller.user_id, True)
    house.clock.advance(seconds=1)
    assert house.verifier.cached(token) is None
    with pytest.raises(InvalidToken):
        await house.verifier.verify(token)


async def test_an_account_with_rights_lends_none_of_them_to_pocketbases_word(house: AuthHouse) -> None:
    token = await house.token_of(house.upstream.person("alice"))
    person = await account_of(house, token)
    await house.core.people.set_roles(person.user_id, ["user", "admin"])
    assert (await house.verifier.verify(token)).roles == frozenset({"user"})


async def test_an_address_leads_into_nobodys_account(house: AuthHouse) -> None:
    owner = await house.core.people.create(NewPerson(email="alice@example.com", email_verified=True))
    token = await house.token_of(house.upstream.person("alice"))
    person = await account_of(house, token)
    assert person.user_id != owner.user_id
    assert person.email is None


async def test_an_address_that_pocketbase_has_not_verified_is_nobodys(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    house.upstream.update("users", alice.id, verified=False)
    person = await account_of(house, await house.token_of(alice))
    assert person.email is None
    assert await house.core.people.find_by_login(alice.email) is None


async def test_records_of_two_collections_are_two_people(house: AuthHouse) -> None:
    one = house.upstream.person("alice")
    other = house.upstream.person("alice", "staff")
    people = [await account_of(house, await house.token_of(person)) for person in (one, other)]
    assert people[0].user_id != people[1].user_id
    assert [person.email for person in people] == [one.email, None]


async def test_many_logins_at_a_time_make_one_account(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    tokens = await asyncio.gather(*[house.token_of(alice) for _ in range(6)])
    assert len({(await account_of(house, token)).user_id for token in tokens}) == 1
    count = await house.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM res_accounts"))
    assert count == 1


async def test_a_record_made_again_under_a_deleted_ones_id_is_somebody_else(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    before = await account_of(house, await house.token_of(alice))
    house.upstream.delete("users", alice.id)
    # Nobody has heard of it: the gateway was away.
    await asyncio.to_thread(_wait_for_another_instant)
    again = house.upstream.person("mallory", id=alice.id)
    after = await account_of(house, await house.token_of(again))
    assert after.user_id != before.user_id
    assert await house.core.people.find(before.user_id) is not None


def _wait_for_another_instant() -> None:
    """PocketBase writes dates in milliseconds, and its clock is its own."""
    import time

    began = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == began:
        pass


async def test_the_link_of_a_deleted_record_goes_and_its_account_stays(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    before = await account_of(house, token)
    await house.sessions.record_changed(alice.collection_id, alice.id, "delete")
    with pytest.raises(InvalidToken):
        await house.verifier.verify(token)
    assert await house.core.people.find(before.user_id) is not None
    assert await house.db.read(lambda tx: tx.fetch_value("SELECT count(*) FROM res_gateway_accounts")) == 0


async def test_whoever_deleted_their_account_gets_a_new_one_at_the_next_login(house: AuthHouse) -> None:
    alice = house.upstream.person("alice")
    token = await house.token_of(alice)
    before = await account_of(house, token)
    await house.core.people.delete(before.user_id)
    with pytest.raises(InvalidToken):
        await house.verifier.verify(token)
    assert (await account_of(house, await house.token_of(alice))).user_id != before.user_id


async def test_a_record_without_a_known_birth_keeps_its_account_once_it_is_known(house: AuthHouse) -> None:
    accounts = Accounts(house.db, house.core.people, house.clock)
    users = house.catalog.resolve("users")
    record: dict[str, Any] = {"id": "abc", "collectionId": users.id}
    first = await accounts.of_record(users, record, Origin())
    born = {**record, "created": "2026-01-01 00:00:00.000Z"}
    assert birth_of(users, born) == "2026-01-01 00:00:00.000Z"
    assert await accounts.of_record(users, born, Origin()) == first
    assert await accounts.of_record(users, {**record, "created": "2026-02-02 00:00:00.000Z"}, Origin()) != first


async def test_without_accounts_a_session_opens_nothing_else(new_house: NewAuthHouse) -> None:
    house = await new_house()
    house.auth._accounts = None  # pyright: ignore[reportPrivateUsage]
    token = await house.token_of(house.upstream.person("alice"))
    with pytest.raises(InvalidToken):
        await house.verifier.verify(token)
    # Once there are accounts again, the next refresh finds one.
    house.auth._accounts = Accounts(house.db, house.core.people, house.clock)  # pyright: ignore[reportPrivateUsage]
    refreshed = (await house.refresh(token)).json()["token"]
    assert (await account_of(house, refreshed)).user_id != UserId("")
