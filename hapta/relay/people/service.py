"""People as others see them, and friends (contract relay, sections 9.2 and 9.3).

What changes between two people is written in one transaction under both accounts' heads, which are locked in the order of
their ids: statuses of the two sides, feed items and the updates that tell of them agree at any moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hapta.db.database import Database, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.account.ports import Avatars, no_avatars
from hapta.relay.feed.service import FeedService
from hapta.relay.models import ALL, Update
from hapta.relay.people import store
from hapta.relay.people.errors import FriendsOfFriendsOnly, NotAccepting, TooManyFriends, UserNotFound
from hapta.relay.people.models import Change, Exists, Person, Relation, Seen, Status, added, removed
from hapta.relay.ports import Teller
from hapta.relay.prefixes import end_of
from hapta.relay.updates import heads as heads_of
from hapta.relay.updates.heads import Head, Heads

NOTIFY_EVERY_MS = 86_400_000
"""A request is told in the other's feed at most once in so long (contract relay, section 9.3)."""
MAX_FRIENDS = 1000
"""Friends and own requests of one account; also the most that a list holds."""


OnFriends = Callable[[str, str], Awaitable[None]]
_Judge = Callable[[WriteTx, Relation, Relation], Awaitable[Change]]
"""What becomes of my status and of theirs."""


class PeopleService:
    """Finds people and keeps their friends.

    Args:
        exists: asks identity whether an account is there.
        avatars: pictures of accounts.
        on_friends: told of two accounts that have become friends.
    """

    def __init__(
        self,
        db: Database,
        heads: Heads,
        updates: Teller,
        clock: Clock,
        feed: FeedService,
        *,
        exists: Exists,
        avatars: Avatars = no_avatars,
        on_friends: OnFriends | None = None,
    ) -> None:
        self._on_friends = on_friends
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._feed = feed
        self._exists = exists
        self._avatars = avatars

    # --- finding ---

    async def search(self, account_id: str, query: str, limit: int) -> list[Person]:
        """People whose username begins with `query`, in any case, by name; those who are for friends only if they are."""
        first = query.lower()
        end = end_of(first)
        seen = await self._db.read(lambda tx: store.search(tx, account_id, first, end, limit), snapshot=False)
        return await self._shown(seen)

    async def find(self, account_id: str, other_id: str) -> Person:
        """One person; also oneself.

        Raises:
            UserNotFound: nobody, or one who shows themselves to friends only.
        """
        if not await self._exists(other_id):
            raise UserNotFound
        (seen,) = await self._db.read(lambda tx: store.find(tx, account_id, [other_id]), snapshot=False)
        if other_id != account_id and not seen.is_visible:
            raise UserNotFound
        return (await self._shown([seen], me=account_id))[0]

    async def some(self, account_id: str, ids: Sequence[str]) -> dict[str, Person]:
        """Several people by their ids, as `account_id` sees them; whether they are there, the caller knows."""
        seen = await self._db.read(lambda tx: store.find(tx, account_id, ids), snapshot=False)
        return {person.id: person for person in await self._shown(seen)}

    async def friends(self, account_id: str) -> list[Person]:
        """Friends, open requests, and those who ask: at most `MAX_FRIENDS`, in this order."""
        seen = await self._db.read(lambda tx: store.friends(tx, account_id, MAX_FRIENDS), snapshot=False)
        return await self._shown(seen)

    async def _shown(self, seen: Sequence[Seen], *, me: str = "") -> list[Person]:
        visible = [one.id for one in seen if one.is_visible or one.id == me]
        avatars = await self._avatars(visible)
        shown = set(visible)
        return [
            Person(
                id=one.id,
                first_name=(one.first_name or "") if one.id in shown else "",
                last_name=one.last_name if one.id in shown else None,
                username=one.username or (one.github_login if one.id in shown else ""),
                bio=one.bio if one.id in shown else None,
                avatar=avatars.get(one.id),
                status=one.mine,
            )
            for one in seen
        ]

    async def profiles(self, account_id: str, other_ids: Sequence[str]) -> dict[str, Person]:
        """Others as an account sees them, by id; who shows themselves to friends only has no name then."""
        seen = await self._db.read(lambda tx: store.find(tx, account_id, list(other_ids)), snapshot=False)
        return {person.id: person for person in await self._shown(seen)}

    # --- friends ---

    async def add(self, account_id: str, other_id: str) -> Person | None:
        """Asks the other to be a friend, or agrees to what the other asked.

        Returns:
            The other with the new status; None for oneself and for nobody.

        Raises:
            NotAccepting, FriendsOfFriendsOnly: the other's own wish.
            TooManyFriends: the account may have no more.
        """

        async def judge(tx: WriteTx, mine: Relation, theirs: Relation) -> Change:
            change = added(mine.status, theirs.status)
            if change.mine == "requested" and mine.status != "requested":
                await self._require_permission(tx, account_id, other_id)
            return change

        return await self._between(account_id, other_id, judge)

    async def remove(self, account_id: str, other_id: str) -> Person | None:
        """Takes a request back, turns one down, or ends a friendship, also with somebody who was switched off since.

        Returns:
            The other with the new status; None for oneself and for nobody.
        """
        mine = await self._db.read(lambda tx: store.relation(tx, account_id, other_id), snapshot=False)

        async def judge(tx: WriteTx, mine: Relation, theirs: Relation) -> Change:
            return removed(mine.status, theirs.status)

        return await self._between(account_id, other_id, judge, known=mine.status != "none")

    async def _require_permission(self, tx: WriteTx, account_id: str, other_id: str) -> None:
        (other,) = await store.find(tx, account_id, [other_id])
        if other.permission == "none":
            raise NotAccepting
        if other.permission == "friends-of-friends" and not await store.have_common_friend(tx, account_id, other_id):
            raise FriendsOfFriendsOnly
        if await store.count_of_own(tx, account_id) >= MAX_FRIENDS:
            raise TooManyFriends

    async def _between(self, account_id: str, other_id: str, judge: _Judge, *, known: bool = False) -> Person | None:
        if account_id == other_id or not (known or await self._exists(other_id)):
            return None

        async def body(tx: WriteTx) -> tuple[Seen, list[Update], bool]:
            heads = await self._heads.all_locked(tx, [account_id, other_id])
            mine = await store.relation(tx, account_id, other_id)
            theirs = await store.relation(tx, other_id, account_id)
            change = await judge(tx, mine, theirs)
            told: list[Update] = []
            if change != Change(mine.status, theirs.status):
                me, other = heads[account_id], heads[other_id]
                await self._write(tx, me, other, mine, theirs, change)
                await heads_of.save(tx, [me, other])
                told = [*me.updates, *other.updates]
            (seen,) = await store.find(tx, account_id, [other_id])
            return seen, told, change.mine == "friend" != mine.status

        seen, told, befriended = await self._db.write(body)
        await self._updates.announce(told)
        if befriended and self._on_friends is not None:
            await self._on_friends(account_id, other_id)
        return (await self._shown([seen]))[0]

    async def _write(
        self, tx: WriteTx, me: Head, other: Head, mine: Relation, theirs: Relation, change: Change
    ) -> None:
        now = self._clock.now_ms()
        if change.mine != mine.status:
            await store.set_status(tx, me.account_id, other.account_id, change.mine, now)
        if change.theirs != theirs.status:
            await store.set_status(tx, other.account_id, me.account_id, change.theirs, now)
        _tell(me, other.account_id, mine.status, change.mine, now)
        _tell(other, me.account_id, theirs.status, change.theirs, now)
        if change.mine == "friend":
            await self._post(tx, me, "friend_accepted", other.account_id)
            await self._post(tx, other, "friend_accepted", me.account_id)
        elif change.mine == "requested" and change.theirs != "rejected" and _may_notify(theirs, now):
            await self._post(tx, other, "friend_request", me.account_id)
            await store.set_notified(tx, other.account_id, me.account_id, now)

    async def _post(self, tx: WriteTx, head: Head, kind: str, about: str) -> None:
        await self._feed.post(tx, head, {"kind": kind, "uid": about}, repeat_key=f"{kind}_{about}")


def _may_notify(theirs: Relation, now: int) -> bool:
    return theirs.last_notified_at is None or now - theirs.last_notified_at >= NOTIFY_EVERY_MS


def _tell(head: Head, other_id: str, before: Status, status: Status, now: int) -> None:
    """The update of one side, in the names of both families (contract relay, section 13)."""
    action = "created" if before == "none" else "deleted" if status == "none" else "updated"
    head.add(
        {
            "t": "relationship-updated",
            "uid": other_id,
            "fromUserId": head.account_id,
            "toUserId": other_id,
            "status": status,
            "action": action,
            "timestamp": now,
        },
        ALL,
    )


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account, on both sides."""
    await store.purge(tx, account_id)
