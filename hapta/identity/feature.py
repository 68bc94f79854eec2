"""The whole of identity, put together: `app.py` opens it, serves its endpoints and runs its jobs.

Who needs whom is said here once. Everything but people lives in the database of the auth side.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from hapta.bus.bus import Bus
from hapta.db.database import Database, WriteTx
from hapta.http.api import Endpoint
from hapta.http.fetch import FetchError, GuardedFetch
from hapta.http.pages import Pages
from hapta.identity.activity import AccountActivity
from hapta.identity.audit.routes import routes as audit_routes
from hapta.identity.audit.service import AuditLog
from hapta.identity.browser import BrowserSessions, is_loopback
from hapta.identity.core import AuthCore, Core, build_auth_core, build_core
from hapta.identity.csrf import origin_of
from hapta.identity.event_log import EventRecorder, open_event_log
from hapta.identity.factors.pages import FactorPages
from hapta.identity.factors.passkeys import PasskeyService
from hapta.identity.factors.routes import routes as factor_routes
from hapta.identity.factors.service import FactorService, OnChanged, nothing_ends
from hapta.identity.keylogin.routes import routes as key_routes
from hapta.identity.keylogin.service import KeyLoginService
from hapta.identity.lasting import LastingSessions
from hapta.identity.links.service import LinkService
from hapta.identity.models import Change, Lifetime, Revocation
from hapta.identity.otp.budgets import Budgets
from hapta.identity.otp.codes import Codes
from hapta.identity.otp.routes import routes as otp_routes
from hapta.identity.otp.service import OtpService
from hapta.identity.outbox.service import OutboxService
from hapta.identity.outbox.templates import Templates
from hapta.identity.pages.kit import PageKit
from hapta.identity.pages.ports import ConnectedApps
from hapta.identity.pages.routes import routes as page_routes
from hapta.identity.people import IdentityStore
from hapta.identity.people_store import OnPersonDeleted, RewrapVaultKeys
from hapta.identity.recovery.routes import routes as recovery_routes
from hapta.identity.recovery.service import RecoveryService
from hapta.identity.session_tokens import SessionTokens
from hapta.identity.throttle.service import Throttle
from hapta.identity.unproved import Forget
from hapta.identity.upstream.feature import Upstream, open_upstream
from hapta.identity.v1.routes import routes as v1_routes
from hapta.identity.v1.service import SelfService
from hapta.identity.webhooks.deliverer import Deliverer
from hapta.identity.webhooks.routes import routes as webhook_routes
from hapta.identity.webhooks.sealing import WebhookSecrets
from hapta.identity.webhooks.service import WebhookService
from hapta.kit.access import UserId
from hapta.kit.background import Routine, Work, in_turn
from hapta.kit.clock import Clock
from hapta.kit.ids import Ids
from hapta.kit.keyring import Keyring
from hapta.kit.ratelimit import Limiter, Rate
from hapta.kit.seal import Sealer
from hapta.mail.connect import senders
from hapta.settings import Settings

SWEEP_SECONDS = 600.0
AUDIT_SWEEP_SECONDS = 3_600.0
TEMPLATE_FOLDERS = (("hapta.identity", "templates"),)

Job = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity, open.

    Args:
        jobs: loops to run until cancelled, by name.
        clean_up: removes what is over, once; one of the jobs does it again and again.
    """

    core: AuthCore
    events: EventRecorder
    audit: AuditLog
    webhooks: WebhookService
    deliverer: Deliverer
    outbox: OutboxService
    otp: OtpService
    recovery: RecoveryService
    throttle: Throttle
    browser: BrowserSessions
    accounts: SelfService
    factors: FactorService
    passkeys: PasskeyService
    links: LinkService
    keys: KeyLoginService
    upstream: Upstream
    fetch: GuardedFetch
    sealer: Sealer
    jobs: Mapping[str, Job]
    clean_up: Work

    @property
    def whole(self) -> Core:
        """The core with both sides, in a process that has both.

        Raises:
            TypeError: people are behind another server.
        """
        if not isinstance(self.core, Core):
            raise TypeError("people are behind another server")
        return self.core

    def endpoints(self) -> list[Endpoint]:
        """JSON routes of identity; its pages are made by `app.py`, since other features have parts on them."""
        return [
            *v1_routes(self.accounts, self.browser),
            *otp_routes(self.otp, self.core.signin, self.browser),
            *recovery_routes(self.recovery),
            *audit_routes(self.audit),
            *webhook_routes(self.webhooks, self.deliverer),
            *factor_routes(self.factors, self.passkeys, self.core.sessions, self.browser),
            *key_routes(self.keys),
        ]

    def pages(self, pages: Pages, *, apps: ConnectedApps | None = None) -> list[Endpoint]:
        """The pages of identity.

        Args:
            apps: third-party apps with access, if there is an authorization server.
        """
        kit = PageKit(pages, self.browser, self.accounts)
        own = FactorPages(kit, self.factors, self.passkeys)
        return [
            *page_routes(
                kit,
                codes=self.otp,
                signin=self.core.signin,
                recovery=self.recovery,
                steps=own.steps(),
                extras=own.extras(),
                providers=self.upstream.buttons,
                sections=[*own.sections(), self.upstream.section(kit)],
                apps=apps,
                activity=AccountActivity(self.audit),
            ),
            *own.endpoints(),
            *self.upstream.endpoints(kit),
        ]


@asynccontextmanager
async def open_identity(
    db: Database,
    auth_db: Database,
    bus: Bus,
    clock: Clock,
    ids: Ids,
    settings: Settings,
    secret: Keyring,
    *,
    limiter: Limiter | None = None,
    rewrap_vault_keys: RewrapVaultKeys | None = None,
    on_deleted: Sequence[OnPersonDeleted] = (),
    people: IdentityStore | None = None,
    forget_unproved: Sequence[Forget] = (),
    on_factors_changed: OnChanged = nothing_ends,
) -> AsyncGenerator[Identity]:
    """Builds identity over two databases that may be one.

    Args:
        people: where they are behind another server; `db` is not touched then.
        secret: the ring of the configured secret, with its lasting keys.
        limiter: for attempts to log in and new key accounts; None switches them off.
        on_deleted: what the resource side removes together with a person.
        forget_unproved: what else goes when an account is emptied whose address somebody else has proved.
        on_factors_changed: ends what apps hold when the owner changes how they sign in.
    """
    own, public_url = settings.identity, settings.server.public_address
    production = settings.server.environment == "production"
    sealer = secret.sealer("data-seal")
    events = open_event_log(auth_db, clock, ids, secret, own)
    audit, queue = events.audit, events.webhooks
    attempts = Rate.parse(settings.ratelimit.auth)
    core: AuthCore
    if people is None:
        core = build_core(
            db,
            auth_db,
            bus,
            clock,
            ids,
            own,
            secret,
            events=events,
            issuer=public_url,
            limiter=limiter,
            attempts=attempts,
            rewrap_vault_keys=rewrap_vault_keys,
            on_deleted=on_deleted,
        )
    else:
        core = build_auth_core(
            auth_db,
            bus,
            clock,
            ids,
            own,
            secret,
            people,
            events=events,
            issuer=public_url,
            limiter=limiter,
            attempts=attempts,
        )
    people, sessions, signin = core.people, core.sessions, core.signin
    fetch = GuardedFetch(allow_private=settings.webhooks.allow_private)
    # Where mail goes is the operator's own word, so it may be a neighbour.
    post = _post(GuardedFetch(allow_private=True))
    host = urlsplit(public_url).hostname or ""
    outbox = OutboxService(
        auth_db,
        clock,
        ids,
        sealer,
        senders(settings.mail, settings.data.dir, clock, post),
        Templates(own.product_name, host),
    )
    secrets = WebhookSecrets(sealer)
    webhooks = WebhookService(auth_db, clock, ids, secrets, events, allow_private=settings.webhooks.allow_private)
    deliverer = Deliverer(auth_db, clock, ids, fetch, queue, secrets, settings.webhooks, outbox)
    otp_key = secret.current("otp")
    codes = Codes(auth_db, clock, otp_key, settings.otp)
    otp = OtpService(auth_db, clock, people, codes, outbox, events, settings.otp)
    throttle = Throttle(auth_db, clock, secret, events=events)
    core.accounts.throttle_with(throttle)

    async def forget_ways_in(tx: WriteTx, user_id: UserId) -> None:
        await passkeys.forget(tx, user_id)
        await links.delete_person(tx, user_id)
        await keys.delete_person(tx, user_id)

    recovery = RecoveryService(
        auth_db,
        clock,
        ids,
        people,
        outbox,
        codes,
        Budgets(otp_key, clock),
        events,
        sealer,
        settings.otp,
        lambda path: public_url + path,
        throttle.recovered,
        forget_unproved=[forget_ways_in, *forget_unproved],
    )
    browser = BrowserSessions(
        sessions,
        clock,
        secret,
        public_url,
        allowed_origins=[origin for origin in settings.server.cors_origin if origin != "*"],
        # A development server on this machine has no certificate; anywhere else it takes the setting, and https.
        insecure=own.insecure_cookies
        or (not production and public_url.startswith("http:") and is_loopback(public_url)),
        production=production,
    )
    accounts = SelfService(
        auth_db,
        clock,
        people,
        sessions,
        signin,
        throttle,
        outbox,
        own,
        verification=otp,
        wake_outbox=outbox.wake,
    )
    factors = FactorService(
        auth_db,
        clock,
        people,
        sessions,
        signin,
        events,
        outbox,
        sealer,
        secret,
        own.product_name,
        sent_codes=otp if own.second_factor_by_mail else None,
        on_changed=on_factors_changed,
    )
    signin.ask(factors.methods)
    passkeys = PasskeyService(
        auth_db,
        clock,
        people,
        sessions,
        signin,
        events,
        outbox,
        rp_id=host,
        rp_name=own.product_name,
        origins=[origin_of(public_url) or public_url],
        on_changed=on_factors_changed,
    )
    links = LinkService(auth_db, clock, events)
    keys = KeyLoginService(
        auth_db,
        clock,
        ids,
        people,
        sessions,
        signin,
        links,
        secret,
        lasting=LastingSessions(
            auth_db,
            clock,
            people,
            SessionTokens(secret, clock, ids, public_url),
            own,
            Lifetime(own.key_token_seconds, own.key_session_seconds),
        ),
        limiter=limiter,
        creations=Rate.parse(settings.ratelimit.key_accounts),
    )

    upstream = open_upstream(
        settings.upstream,
        auth_db,
        clock,
        secret,
        public_url,
        fetch,
        people,
        sessions,
        signin,
        links,
        factors,
        events,
        outbox,
        browser,
        allow_registration=own.allow_registration,
        forget=[keys.delete_person, *forget_unproved],
        on_changed=on_factors_changed,
    )

    async def forget(tx: WriteTx, change: Change) -> list[Revocation]:
        if change.kind == "deleted":
            await factors.delete_person(tx, change.user_id)
            await links.delete_person(tx, change.user_id)
            await keys.delete_person(tx, change.user_id)
        return []

    sessions.on_change(forget)

    clean_up = in_turn(
        {
            "codes": codes.sweep,
            "recoveries": recovery.sweep,
            "throttle": throttle.sweep,
            "outbox": outbox.sweep,
            "passkeys": passkeys.sweep,
            "key logins": keys.sweep,
            "upstream logins": upstream.sweep,
        }
    )
    jobs: dict[str, Job] = {
        "revocations": core.watch.run,
        "webhooks": deliverer.run,
        "audit": Routine("clean-up of the audit log", audit.sweep, AUDIT_SWEEP_SECONDS).run,
        "identity clean-up": Routine("identity clean-up", clean_up, SWEEP_SECONDS).run,
    }
    if isinstance(core, Core):
        jobs["changes of people"] = core.people.run
    identity = Identity(
        core,
        events,
        audit,
        webhooks,
        deliverer,
        outbox,
        otp,
        recovery,
        throttle,
        browser,
        accounts,
        factors,
        passkeys,
        links,
        keys,
        upstream,
        fetch,
        sealer,
        jobs,
        clean_up,
    )
    try:
        yield identity
    finally:
        await outbox.close()
        await core.close()


def _post(fetch: GuardedFetch) -> Callable[[str, Mapping[str, str], bytes], Awaitable[int]]:
    async def post(url: str, headers: Mapping[str, str], body: bytes) -> int:
        try:
            return (await fetch.request("POST", url, headers=headers, body=body)).status
        except FetchError as error:
            raise OSError(str(error)) from error

    return post
