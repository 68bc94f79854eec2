"""The nouns around the account itself, built together: its profile and settings, people, feed, keys, push tokens, voice, and the
small answers that apps ask for. `feature.py` hands in what they need of the rest of the server.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hapta.db.database import Database
from hapta.http.api import Endpoint
from hapta.http.fetch import GuardedFetch
from hapta.http.pages import Pages
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring
from hapta.kit.ratelimit import Limiter
from hapta.relay.account import routes as account_routes
from hapta.relay.account.ports import Avatars, Connected, no_avatars
from hapta.relay.account.service import AccountService
from hapta.relay.feed import routes as feed_routes
from hapta.relay.feed.service import FeedService
from hapta.relay.kv import routes as kv_routes
from hapta.relay.kv.service import KvService
from hapta.relay.online.service import Online
from hapta.relay.people import routes as people_routes
from hapta.relay.people.models import Exists, nobody
from hapta.relay.people.service import PeopleService
from hapta.relay.ports import Teller
from hapta.relay.push_tokens import routes as push_token_routes
from hapta.relay.push_tokens.service import PushTokenService
from hapta.relay.sharing.ports import Emails, Invite, no_emails
from hapta.relay.small import health
from hapta.relay.small import routes as small_routes
from hapta.relay.updates.heads import Heads
from hapta.relay.voice import routes as voice_routes
from hapta.relay.voice.providers import VoiceProviders
from hapta.relay.voice.service import VoiceService
from hapta.settings import ServerSettings
from hapta.settings.relay import RelaySettings

TEMPLATE_FOLDERS = (("hapta.relay", "templates"),)


def _pages() -> Pages:
    return Pages("Hapta", False, TEMPLATE_FOLDERS)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the relay is told of the server that it is a part of.

    Args:
        exists: whether an account is there and not switched off.
        fetch: makes requests to ElevenLabs and RevenueCat.
        production: whether this is a server for production.
        checks: what `/ready` asks, by the server's own names.
        avatars: pictures of accounts.
        emails: addresses that an account has proved here; one of its GitHub account counts without.
        invite: sends invitations by mail; None: this server sends none.
        server: its own addresses.
        pages: for people, with `TEMPLATE_FOLDERS`.
    """

    exists: Exists = nobody
    fetch: GuardedFetch = field(default_factory=GuardedFetch)
    version: str = ""
    production: bool = True
    checks: Mapping[str, health.Check] = field(default_factory=dict[str, health.Check])
    avatars: Avatars = no_avatars
    emails: Emails = no_emails
    invite: Invite | None = None
    server: ServerSettings = field(default_factory=ServerSettings)
    pages: Pages = field(default_factory=_pages)


@dataclass(frozen=True, slots=True)
class Personal:
    """These nouns, built."""

    account: AccountService
    people: PeopleService
    feed: FeedService
    kv: KvService
    push_tokens: PushTokenService
    voice: VoiceService
    endpoints: Sequence[Endpoint]


def build(
    db: Database,
    heads: Heads,
    updates: Teller,
    clock: Clock,
    ids: Ids,
    settings: RelaySettings,
    around: Surroundings,
    *,
    keyring: Keyring,
    limiter: Limiter | None,
    connected: Connected | None = None,
    online: Online | None = None,
) -> Personal:
    """Builds them.

    Args:
        connected: vendors whose tokens an account has handed in.
        online: tells friends who is there; None: nobody is told.
    """
    on_shown, on_friends = (None, None) if online is None else (online.shown, online.befriended)
    account = AccountService(db, heads, updates, clock, connected=connected, avatars=around.avatars, on_shown=on_shown)
    feed = FeedService(db, clock, ids)
    people = PeopleService(
        db, heads, updates, clock, feed, exists=around.exists, avatars=around.avatars, on_friends=on_friends
    )
    kv = KvService(db, heads, updates, clock, max_keys=settings.max_keys_per_account)
    push_tokens = PushTokenService(db, clock, ids)
    user_key = hmac.digest(keyring.current("relay-names"), b"relay-voice", "sha256")
    voice = VoiceService(db, heads, clock, ids, settings, VoiceProviders(settings, around.fetch), user_key=user_key)
    endpoints = [
        *account_routes.routes(account, clock, around.server),
        *people_routes.routes(people, around.server),
        *feed_routes.routes(feed),
        *kv_routes.routes(kv),
        *push_token_routes.routes(push_tokens),
        *voice_routes.routes(voice),
        *small_routes.routes(settings, limiter, production=around.production),
        *health.routes(around.version, clock, around.checks),
    ]
    return Personal(account, people, feed, kv, push_tokens, voice, endpoints)
