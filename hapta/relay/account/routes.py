"""Routes of the account itself: decode, call, encode (contract relay, sections 9.1 and 9.2)."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import UNSET

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, Caller
from hapta.kit.clock import Clock
from hapta.relay.account.errors import UsernameTaken
from hapta.relay.account.models import Edits, Privacy, PrivacyEdits, Profile
from hapta.relay.account.schemas import (
    PrivacyAnswer,
    PrivacyChange,
    ProfileAnswer,
    ProfileChange,
    ProfileChanged,
    SettingsAnswer,
    SettingsChange,
    SettingsChanged,
)
from hapta.relay.account.service import AccountService
from hapta.relay.addresses import absolute, base_of
from hapta.settings import ServerSettings

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Settings are up to a million characters, which JSON may write as six bytes each."""
_KEEP = (b"cache-control", b"private, no-cache")


def routes(accounts: AccountService, clock: Clock, server: ServerSettings) -> list[Endpoint]:
    """The URL table of the account itself.

    Args:
        server: its own addresses.
    """
    api = AccountApi(accounts, clock, server)
    table = Table(dialect=RELAY, access=DATA, limit="account", tag="relay account", max_body_bytes=MAX_BODY_BYTES)
    profile = {200: ProfileAnswer, 304: None}
    return [
        table.get("/v1/account", api.profile, summary="The account's own profile", answers=profile),
        table.get("/v1/account/profile", api.profile, summary="The account's own profile", answers=profile),
        table.put(
            "/v1/account",
            api.edit,
            summary="Change names",
            answers={200: ProfileChanged},
            errors=[UsernameTaken],
        ),
        table.get("/v1/account/settings", api.settings, summary="Settings of apps", answers={200: SettingsAnswer}),
        table.get("/v1/account/preferences", api.settings, summary="Settings of apps", answers={200: SettingsAnswer}),
        table.post(
            "/v1/account/settings",
            api.set_settings,
            summary="Write settings of apps, if nobody was first",
            answers={200: SettingsChanged},
        ),
        table.put(
            "/v1/account/preferences",
            api.set_settings,
            summary="Write settings of apps, if nobody was first",
            answers={200: SettingsChanged},
        ),
        table.get("/v1/users/me/privacy", api.privacy, summary="What others may see", answers={200: PrivacyAnswer}),
        table.patch(
            "/v1/users/me/privacy",
            api.set_privacy,
            summary="Change what others may see",
            answers={200: PrivacyAnswer},
        ),
    ]


class AccountApi:
    """Handlers of the account itself."""

    def __init__(self, accounts: AccountService, clock: Clock, server: ServerSettings) -> None:
        self._accounts = accounts
        self._clock = clock
        self._server = server

    async def profile(self, caller: Caller, request: Request) -> Reply:
        profile = await self._accounts.profile(caller.user_id)
        # The tag is of what the account says, not of the hour of the answer.
        base = base_of(self._server, request)
        digest = hashlib.sha256(msgspec.json.encode(_wire(profile, 0, base))).hexdigest()[:32]
        headers = ((b"etag", f'W/"{digest}"'.encode()), _KEEP)
        known = {tag.strip().removeprefix("W/") for tag in (request.header("if-none-match") or "").split(",")}
        if f'"{digest}"' in known or "*" in known:  # weak comparison, RFC 9110, section 13.1.2
            return Reply(304, None, headers)
        return Reply(200, _wire(profile, self._clock.now_ms(), base), headers)

    async def edit(self, caller: Caller, request: Request, body: ProfileChange) -> ProfileChanged:
        edits = Edits(
            first_name=UNSET if body.first_name is None else body.first_name,
            last_name=body.last_name,
            username=UNSET if body.username is None else body.username,
            bio=body.bio,
        )
        profile = await self._accounts.edit(caller.user_id, edits)
        base = base_of(self._server, request)
        return ProfileChanged(success=True, profile=_wire(profile, self._clock.now_ms(), base))

    async def settings(self, caller: Caller) -> SettingsAnswer:
        settings = await self._accounts.settings(caller.user_id)
        return SettingsAnswer(settings=settings.value, settings_version=settings.version)

    async def set_settings(self, caller: Caller, body: SettingsChange) -> SettingsChanged:
        outcome = await self._accounts.set_settings(caller.user_id, body.settings, body.expected_version)
        if outcome.written:
            return SettingsChanged(success=True, version=outcome.now.version)
        return SettingsChanged(
            success=False,
            error="version-mismatch",
            current_version=outcome.now.version,
            current_settings=outcome.now.value,
        )

    async def privacy(self, caller: Caller) -> PrivacyAnswer:
        return _privacy(await self._accounts.privacy(caller.user_id))

    async def set_privacy(self, caller: Caller, body: PrivacyChange) -> PrivacyAnswer:
        edits = PrivacyEdits(body.show_online_status, body.profile_visibility, body.friend_request_permission)
        return _privacy(await self._accounts.set_privacy(caller.user_id, edits))


def _wire(profile: Profile, timestamp: int, base: str) -> ProfileAnswer:
    account = profile.account
    return ProfileAnswer(
        id=account.account_id,
        timestamp=timestamp,
        first_name=account.first_name,
        last_name=account.last_name,
        username=account.username,
        avatar=absolute(profile.avatar, base),
        bio=account.bio,
        github=profile.github,
        connected_services=profile.connected,
    )


def _privacy(privacy: Privacy) -> PrivacyAnswer:
    return PrivacyAnswer(
        show_online_status=privacy.show_online_status,
        profile_visibility=privacy.profile_visibility,
        friend_request_permission=privacy.friend_request_permission,
    )
