"""Sign-in through other providers, put together from the settings: buttons, a section of the account page, endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hapta.db.database import Database
from hapta.http.api import Endpoint
from hapta.http.fetch import FetchRefused, GuardedFetch
from hapta.identity.browser import BrowserSessions
from hapta.identity.events import EventLog
from hapta.identity.factors.service import FactorService, OnChanged, nothing_ends
from hapta.identity.links.owner import OwnLinks
from hapta.identity.links.routes import routes as link_routes
from hapta.identity.links.service import LinkService
from hapta.identity.messages import Outbox
from hapta.identity.pages.kit import PageKit
from hapta.identity.pages.ports import AccountSection, ProviderButton
from hapta.identity.pages.table import PageTable
from hapta.identity.people import IdentityStore
from hapta.identity.sessions import SessionService
from hapta.identity.signin import SignInService
from hapta.identity.unproved import Forget
from hapta.identity.upstream.attempts import Attempts
from hapta.identity.upstream.errors import ProviderNotFound, UpstreamMisconfigured
from hapta.identity.upstream.github import GitHub
from hapta.identity.upstream.models import Provider
from hapta.identity.upstream.pages import CONNECT_PATH, REMOVE_PATH, START_PATH, UpstreamPages
from hapta.identity.upstream.service import UpstreamService
from hapta.kit.access import UserId
from hapta.kit.clock import Clock
from hapta.kit.keyring import Keyring, Secret
from hapta.settings.identity import UpstreamSettings

SECTION_TEMPLATE = "upstream_section.html"


def configured(settings: UpstreamSettings, fetch: GuardedFetch, clock: Clock) -> list[Provider]:
    """The providers that the settings name.

    Raises:
        UpstreamMisconfigured: one of them cannot work.
    """
    found: list[Provider] = []
    if settings.github_client_id:
        _needs("upstream.github_client_secret", settings.github_client_secret)
        found.append(GitHub(fetch, settings.github_client_id, settings.github_client_secret))
    if not (settings.google_client_id or settings.oidc_issuer):
        return found
    from hapta.identity.upstream.oidc import OpenIdProvider, google  # only who has one needs what that brings

    if settings.google_client_id:
        _needs("upstream.google_client_secret", settings.google_client_secret)
        found.append(
            google(fetch, clock, settings.google_client_id, settings.google_client_secret, settings.google_domain)
        )
    if settings.oidc_issuer:
        _needs("upstream.oidc_client_id", settings.oidc_client_id)
        try:
            fetch.check(settings.oidc_issuer)
        except FetchRefused as error:
            raise UpstreamMisconfigured(f"upstream.oidc_issuer: {error}") from None
        found.append(
            OpenIdProvider(
                fetch,
                clock,
                "oidc",
                settings.oidc_name,
                settings.oidc_issuer,
                settings.oidc_client_id,
                settings.oidc_client_secret,
                trust_email=settings.oidc_trust_email,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Upstream:
    """Sign-in through other providers, open.

    Args:
        buttons: for the login page (`providers` of the pages).
    """

    providers: Sequence[Provider]
    buttons: Sequence[ProviderButton]
    links: OwnLinks
    service: UpstreamService
    attempts: Attempts
    browser: BrowserSessions
    clock: Clock
    issuer: str

    def pages(self, kit: PageKit) -> UpstreamPages:
        """The handlers of its pages."""
        providers = {provider.name: provider for provider in self.providers}
        return UpstreamPages(kit, self.clock, self.attempts, self.service, self.links, providers, self.issuer)

    def section(self, kit: PageKit) -> AccountSection:
        """Linked providers, for the account page (`sections` of the pages)."""
        return AccountSection(SECTION_TEMPLATE, self.pages(kit).section)

    def endpoints(self, kit: PageKit) -> list[Endpoint]:
        """The way there and back, linking and unlinking; JSON under `/identity/v1/links`."""
        return [*link_routes(self.links, self.browser), *_routes(kit, self.pages(kit))]

    async def sweep(self) -> int:
        """Forgets what has ended; to be called now and then."""
        return await self.attempts.sweep()


def open_upstream(
    settings: UpstreamSettings,
    db: Database,
    clock: Clock,
    secret: Secret,
    issuer: str,
    fetch: GuardedFetch,
    people: IdentityStore,
    sessions: SessionService,
    signin: SignInService,
    links: LinkService,
    factors: FactorService,
    events: EventLog,
    outbox: Outbox,
    browser: BrowserSessions,
    *,
    allow_registration: bool,
    forget: Sequence[Forget] = (),
    providers: Sequence[Provider] | None = None,
    on_changed: OnChanged = nothing_ends,
) -> Upstream:
    """Builds it; calls nobody yet.

    Args:
        db: the auth side's database.
        issuer: our public address; providers know `{issuer}/identity/upstream/{provider}/callback`.
        forget: what else goes when an account is emptied whose address nobody had proved, besides factors and links.
        providers: in place of those that the settings name.
        on_changed: ends what apps hold when an owner adds or removes a link.

    Raises:
        UpstreamMisconfigured: the settings cannot work.
    """
    found = configured(settings, fetch, clock) if providers is None else list(providers)
    names = {provider.name: provider.label for provider in found}

    async def has_passkeys(user_id: UserId) -> bool:
        return bool((await factors.factors(user_id)).passkeys)

    own_links = OwnLinks(
        db,
        clock,
        people,
        sessions,
        links,
        events,
        outbox,
        has_passkeys=has_passkeys,
        names=names,
        on_changed=on_changed,
    )
    service = UpstreamService(
        db,
        people,
        signin,
        links,
        own_links,
        forget=[factors.delete_person, links.delete_person, *forget],
        allow_registration=allow_registration,
    )
    secure = browser.names.session.startswith("__Host-")
    attempts = Attempts(db, clock, Keyring.of(secret).sealer("flow-seal"), secure=secure)
    buttons = [ProviderButton(provider.label, f"{START_PATH}/{provider.name}", provider.leads_to) for provider in found]
    return Upstream(found, buttons, own_links, service, attempts, browser, clock, issuer)


def _routes(kit: PageKit, pages: UpstreamPages) -> list[Endpoint]:
    table = PageTable(kit.pages)
    one = f"{START_PATH}/{{provider}}"
    unknown = [ProviderNotFound]
    return [
        table.get(one, pages.connect_page, errors=unknown),
        table.post(one, pages.start, limit="login", errors=unknown),
        table.get(f"{one}/callback", pages.callback, limit="authorize", errors=unknown),
        table.get(CONNECT_PATH, pages.pending_page),
        table.post(CONNECT_PATH, pages.connect, limit="login"),
        table.post(f"{CONNECT_PATH}/new", pages.create, limit="register"),
        table.post(REMOVE_PATH, pages.remove, limit="login"),
    ]


def _needs(name: str, value: str) -> None:
    if not value:
        raise UpstreamMisconfigured(f"{name} is missing")
