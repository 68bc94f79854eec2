"""Routes of people and friends, under the names of both families: decode, call, encode (contract relay, sections 9.2, 9.3)."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.http.api import Endpoint, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.relay.addresses import absolute, base_of
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
from hapta.settings import ServerSettings


def routes(people: PeopleService, server: ServerSettings) -> list[Endpoint]:
    """The URL table of people and friends. The account's own privacy is of `account`.

    Args:
        server: its own addresses.
    """
    api = PeopleApi(people, server)
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

    def __init__(self, people: PeopleService, server: ServerSettings) -> None:
        self._people = people
        self._server = server

    async def search(self, caller: Caller, request: Request, query: SearchQuery) -> UsersAnswer:
        found = await self._people.search(caller.user_id, query.query, query.limit)
        return UsersAnswer(users=self._shown(request, found))

    async def find(self, caller: Caller, request: Request, userId: str) -> UserAnswer:
        return UserAnswer(user=self._shown(request, [await self._people.find(caller.user_id, userId)])[0])

    async def friends(self, caller: Caller, request: Request) -> FriendsAnswer:
        return FriendsAnswer(friends=self._shown(request, await self._people.friends(caller.user_id)))

    async def add(self, caller: Caller, request: Request, body: FriendRequest) -> ChangedUserAnswer:
        return self._changed(request, await self._people.add(caller.user_id, body.uid))

    async def remove(self, caller: Caller, request: Request, body: FriendRequest) -> ChangedUserAnswer:
        return self._changed(request, await self._people.remove(caller.user_id, body.uid))

    def _changed(self, request: Request, person: Person | None) -> ChangedUserAnswer:
        return ChangedUserAnswer(user=None if person is None else self._shown(request, [person])[0])

    def _shown(self, request: Request, people: Sequence[Person]) -> list[UserWire]:
        base = base_of(self._server, request)
        return [_wire(person, base) for person in people]


def _wire(person: Person, base: str) -> UserWire:
    return UserWire(
        id=person.id,
        first_name=person.first_name,
        last_name=person.last_name,
        username=person.username,
        avatar=absolute(person.avatar, base),
        bio=person.bio,
        status=person.status,
    )
