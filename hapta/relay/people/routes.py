"""Routes of people and friends, under the names of both families: decode, call, encode (contract relay, sections 9.2, 9.3)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.people.errors import FriendsOfFriendsOnly, NotAccepting, TooManyFriends, UserNotFound
from hapta.relay.people.models import Person
from hapta.relay.people.schemas import (
    ChangedUserAnswer,
    FriendRequest,
    FriendsAnswer,
    SearchQuery,
    UserAnswer,
    UsersAnswer,
    UserWire,
)
from hapta.relay.people.service import PeopleService


def routes(people: PeopleService) -> list[Endpoint]:
    """The URL table of people and friends. The account's own privacy is of `account`."""
    api = PeopleApi(people)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay people", max_body_bytes=64 * 1024)
    return [
        *[
            table.get(
                path, api.search, summary="Find people by the beginning of their username", answers={200: UsersAnswer}
            )
            for path in ("/v1/users/search", "/v1/user/search")
        ],
        *[
            table.get(path, api.find, summary="One person", answers={200: UserAnswer}, errors=[UserNotFound])
            for path in ("/v1/users/{userId}", "/v1/user/{userId}")
        ],
        table.get("/v1/friends", api.friends, summary="Friends and open requests", answers={200: FriendsAnswer}),
        table.post(
            "/v1/friends/add",
            api.add,
            summary="Ask somebody to be a friend, or agree",
            answers={200: ChangedUserAnswer},
            errors=[NotAccepting, FriendsOfFriendsOnly, TooManyFriends],
        ),
        table.post(
            "/v1/friends/remove",
            api.remove,
            summary="Take a request back, turn one down, or end a friendship",
            answers={200: ChangedUserAnswer},
        ),
    ]


class PeopleApi:
    """Handlers of people and friends."""

    def __init__(self, people: PeopleService) -> None:
        self._people = people

    async def search(self, caller: Caller, query: SearchQuery) -> UsersAnswer:
        found = await self._people.search(caller.user_id, query.query, query.limit)
        return UsersAnswer(users=[_wire(person) for person in found])

    async def find(self, caller: Caller, userId: str) -> UserAnswer:
        return UserAnswer(user=_wire(await self._people.find(caller.user_id, userId)))

    async def friends(self, caller: Caller) -> FriendsAnswer:
        return FriendsAnswer(friends=[_wire(person) for person in await self._people.friends(caller.user_id)])

    async def add(self, caller: Caller, body: FriendRequest) -> ChangedUserAnswer:
        person = await self._people.add(caller.user_id, body.uid)
        return ChangedUserAnswer(user=None if person is None else _wire(person))

    async def remove(self, caller: Caller, body: FriendRequest) -> ChangedUserAnswer:
        person = await self._people.remove(caller.user_id, body.uid)
        return ChangedUserAnswer(user=None if person is None else _wire(person))


def _wire(person: Person) -> UserWire:
    return UserWire(
        id=person.id,
        first_name=person.first_name,
        last_name=person.last_name,
        username=person.username,
        avatar=person.avatar,
        bio=person.bio,
        status=person.status,
    )
