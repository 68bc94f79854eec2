"""What an account shows of itself, its apps' settings, its privacy, and the GitHub account behind it.

Each write locks the account's head first, so writes of one account are one after the other; a version is compared and set in
one statement all the same. Names are unique without case; a clash is told, never overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET

from hapta.db.database import Database, ReadTx, UniqueViolation, WriteTx
from hapta.kit.clock import Clock
from hapta.relay.account import store
from hapta.relay.account.errors import UsernameTaken
from hapta.relay.account.models import (
    Account,
    Edits,
    GithubProfile,
    Preferences,
    Privacy,
    PrivacyEdits,
    Profile,
    SettingsWrite,
)
from hapta.relay.account.ports import Avatars, Connected, OnShown, no_avatars
from hapta.relay.models import USERS, Update
from hapta.relay.ports import Teller
from hapta.relay.updates.heads import Head, Heads

USERNAME = re.compile(r"[A-Za-z0-9_-]{3,50}")
MAX_NAME_CHARACTERS = 100
ATTEMPTS = 3
"""How often a write is begun again that met another one for the same name or GitHub account."""

Json = dict[str, object]


class AccountService:
    """Accounts.

    Args:
        connected: vendors whose tokens an account has handed in; None: nobody asks.
        avatars: pictures of accounts.
        on_shown: told when an account begins or ends to show whether it is online.
    """

    def __init__(
        self,
        db: Database,
        heads: Heads,
        updates: Teller,
        clock: Clock,
        *,
        connected: Connected | None = None,
        avatars: Avatars = no_avatars,
        on_shown: OnShown | None = None,
    ) -> None:
        self._on_shown = on_shown
        self._db = db
        self._heads = heads
        self._updates = updates
        self._clock = clock
        self._connected = connected
        self._avatars = avatars

    # --- the profile ---

    async def profile(self, account_id: str) -> Profile:
        """What the account sees of itself."""

        async def body(tx: ReadTx) -> tuple[Account, str | None, Sequence[str]]:
            account = await store.find(tx, account_id)
            github = await store.github_profile(tx, account_id)
            return account, github, [] if self._connected is None else await self._connected(tx, account_id)

        account, github, connected = await self._db.read(body)
        avatars = await self._avatars([account_id])
        return Profile(account, None if github is None else _github(github), connected, avatars.get(account_id))

    async def edit(self, account_id: str, edits: Edits) -> Profile:
        """Changes names.

        Raises:
            UsernameTaken: the name is somebody else's; nothing was changed.
        """

        async def body(tx: WriteTx) -> list[Update]:
            head = await self._heads.locked(tx, account_id)
            before = await self._row(tx, account_id)
            after = before._replace(
                **{
                    name: value
                    for name in ("first_name", "last_name", "username", "bio")
                    if (value := getattr(edits, name)) is not UNSET
                }
            )
            if after == before:
                return []
            if after.username is not None and after.username != before.username:
                owner = await store.username_owner(tx, after.username.lower())
                if owner not in (None, account_id):
                    raise UsernameTaken
            await store.set_names(tx, after, self._clock.now_ms())
            head.add({**_told(account_id), **_names(after)}, USERS)
            await head.save(tx)
            return head.updates

        try:
            updates = await self._db.write(body)
        except UniqueViolation:  # two accounts took one name at the same moment
            raise UsernameTaken from None
        await self._updates.announce(updates)
        return await self.profile(account_id)

    async def _row(self, tx: WriteTx, account_id: str) -> Account:
        await store.ensure(tx, account_id, self._clock.now_ms())
        return await store.find(tx, account_id)

    async def tell_avatar(self, account_id: str, avatar: Mapping[str, Any] | None) -> None:
        """Tells the account's apps that its picture is another one, once it is stored."""

        async def body(tx: WriteTx) -> list[Update]:
            head = await self._heads.locked(tx, account_id)
            head.add({**_told(account_id), "avatar": avatar}, USERS)
            await head.save(tx)
            return head.updates

        await self._updates.announce(await self._db.write(body))

    # --- settings ---

    async def settings(self, account_id: str) -> Preferences:
        """The settings of the account's apps; version 0 before the first write."""
        account = await self._db.read(lambda tx: store.find(tx, account_id), snapshot=False)
        return Preferences(account.settings, account.settings_version)

    async def set_settings(self, account_id: str, value: str | None, expected: int) -> SettingsWrite:
        """Writes them if nobody has written since `expected`."""

        async def body(tx: WriteTx) -> tuple[SettingsWrite, list[Update]]:
            head = await self._heads.locked(tx, account_id)
            now = self._clock.now_ms()
            await store.ensure(tx, account_id, now)
            version = await store.set_settings(tx, account_id, value, expected, now)
            if version is None:
                account = await store.find(tx, account_id)
                return SettingsWrite(False, Preferences(account.settings, account.settings_version)), []
            head.add({**_told(account_id), "settings": {"value": value, "version": version}}, USERS)
            await head.save(tx)
            return SettingsWrite(True, Preferences(value, version)), head.updates

        outcome, updates = await self._db.write(body)
        await self._updates.announce(updates)
        return outcome

    # --- privacy ---

    async def privacy(self, account_id: str) -> Privacy:
        account = await self._db.read(lambda tx: store.find(tx, account_id), snapshot=False)
        return _privacy(account)

    async def set_privacy(self, account_id: str, edits: PrivacyEdits) -> Privacy:
        """Changes what was given; gives all back."""

        async def body(tx: WriteTx) -> tuple[Privacy, bool]:
            await self._heads.locked(tx, account_id)
            before = await self._row(tx, account_id)
            after = before._replace(
                **{
                    name: value
                    for name in ("show_online_status", "profile_visibility", "friend_request_permission")
                    if (value := getattr(edits, name)) is not None
                }
            )
            if after != before:
                await store.set_privacy(tx, after, self._clock.now_ms())
            return _privacy(after), after.show_online_status != before.show_online_status

        privacy, turned = await self._db.write(body)
        if turned and self._on_shown is not None:
            await self._on_shown(account_id, shows=privacy.show_online_status)
        return privacy

    # --- GitHub ---

    async def github_profile(self, tx: ReadTx, account_id: str) -> Mapping[str, Any] | None:
        """The GitHub profile as it was stored; None: not connected."""
        stored = await store.github_profile(tx, account_id)
        return None if stored is None else msgspec.json.decode(stored)

    async def github_token(self, tx: ReadTx, account_id: str) -> bytes | None:
        """The sealed token that was stored with it."""
        return await store.github_token(tx, account_id)

    async def set_github(
        self,
        tx: WriteTx,
        head: Head,
        account_id: str,
        profile: Mapping[str, Any] | None,
        token: bytes | None = None,
    ) -> list[Update]:
        """Connects a GitHub account, or (None) ends the connection; names stay then.

        The GitHub account is taken from any other account that has it. Its login becomes the username unless that is
        somebody else's.

        Args:
            head: of the account, locked; the caller saves it and announces its updates.
            profile: GitHub's JSON of the user, with `id` and `login`.
            token: sealed.

        Returns:
            Updates of other accounts, for the caller to announce as well. Nothing is added to `head` when there was nothing to end.

        Raises:
            msgspec.ValidationError: the profile is none.
            UniqueViolation: out of the whole write: another account took the name or the GitHub account at the same moment;
                begin again (as `change_github` does).
        """
        now = self._clock.now_ms()
        if profile is None:
            if await store.detach_github(tx, account_id, now):
                head.add({**_told(account_id), "github": None}, USERS)
            return []
        known = msgspec.convert(profile, GithubProfile)
        told: list[Update] = []
        for other_id in await store.with_github(tx, str(known.id), account_id):
            other = await self._heads.locked(tx, other_id)
            await store.detach_github(tx, other_id, now)
            other.add({**_told(other_id), "github": None}, USERS)
            await other.save(tx)
            told += other.updates
        account = await self._row(tx, account_id)
        account = account._replace(**await self._github_names(tx, account, known))
        await store.set_names(tx, account, now)
        stored = msgspec.json.encode(profile).decode()
        await store.attach_github(tx, account_id, str(known.id), stored, token, now)
        told_of = {
            "id": known.id,
            "login": known.login,
            "name": known.name or known.login,
            "avatar_url": known.avatar_url,
            "email": known.email,
            "bio": known.bio,
        }
        head.add({**_told(account_id), **_names(account), "github": told_of}, USERS)
        return told

    async def change_github(
        self, account_id: str, profile: Mapping[str, Any] | None, token: bytes | None = None
    ) -> bool:
        """`set_github` as a write of its own.

        Returns:
            Whether anything changed: False when there was no connection to end.

        Raises:
            UniqueViolation: other accounts took the same name again and again.
        """

        async def body(tx: WriteTx) -> list[Update]:
            head = await self._heads.locked(tx, account_id)
            others = await self.set_github(tx, head, account_id, profile, token)
            await head.save(tx)
            return [*head.updates, *others]

        for _ in range(ATTEMPTS - 1):
            with suppress(UniqueViolation):
                return await self._announced(await self._db.write(body))
        return await self._announced(await self._db.write(body))

    async def _announced(self, updates: Sequence[Update]) -> bool:
        await self._updates.announce(updates)
        return bool(updates)

    async def _github_names(self, tx: ReadTx, account: Account, profile: GithubProfile) -> dict[str, str | None]:
        """First and last name by the first space of the whole one; the login as username if it is free."""
        first, _, last = _clean(profile.name or profile.login).partition(" ")
        names: dict[str, str | None] = {
            "first_name": first[:MAX_NAME_CHARACTERS] or None,
            "last_name": last.strip()[:MAX_NAME_CHARACTERS] or None,
        }
        if USERNAME.fullmatch(profile.login) is not None:
            owner = await store.username_owner(tx, profile.login.lower())
            if owner in (None, account.account_id):
                names["username"] = profile.login
        return names


async def sealed_tokens(tx: ReadTx, after: str, limit: int) -> list[tuple[str, bytes]]:
    """Sealed tokens of GitHub, of the accounts past this one, with their accounts."""
    return await store.github_tokens(tx, after, limit)


async def replace_token(tx: WriteTx, account_id: str, before: bytes, token: bytes) -> bool:
    """Puts another seal in place of one; False: it had been changed."""
    return await store.replace_github_token(tx, account_id, before, token)


def _told(account_id: str) -> Json:
    return {"t": "update-account", "id": account_id}


def _names(account: Account) -> Json:
    return {"firstName": account.first_name, "lastName": account.last_name, "username": account.username}


def _privacy(account: Account) -> Privacy:
    return Privacy(account.show_online_status, account.profile_visibility, account.friend_request_permission)


def _github(stored: str) -> Mapping[str, Any]:
    """The profile as clients want it: those of GitHub without a name show the login, as both families demand a text."""
    profile: dict[str, Any] = msgspec.json.decode(stored)
    return profile if profile.get("name") else {**profile, "name": profile.get("login", "")}


def _clean(text: str) -> str:
    return text.replace("\0", "").strip()


async def purge(tx: WriteTx, account_id: str) -> None:
    """Removes all of an account."""
    await store.purge(tx, account_id)
