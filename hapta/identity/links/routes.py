"""Links as JSON under `/identity/v1/links` (contract identity, section 24): decode, call, encode."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.browser import BrowserSessions
from hapta.identity.errors import CsrfFailed
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.links.errors import LastWayIn, LinkNotFound
from hapta.identity.links.models import Link
from hapta.identity.links.owner import OwnLinks
from hapta.identity.links.schemas import LinkAnswer, LinksAnswer
from hapta.identity.policy import origin
from hapta.identity.v1.answers import sign_in_reply
from hapta.identity.v1.schemas import SignInAnswer
from hapta.kit.access import SESSION, Caller
from hapta.kit.clock import iso_ms


def routes(links: OwnLinks, browser: BrowserSessions) -> list[Endpoint]:
    """The URL table."""
    api = LinksApi(links, browser)
    own = Table(dialect=ENVELOPE, access=SESSION, limit="account", tag="identity", cookies=True)
    return [
        own.get(
            "/identity/v1/links",
            api.list_links,
            summary="Accounts elsewhere, and keys, that sign in to this account",
            answers={200: LinksAnswer},
        ),
        own.delete(
            "/identity/v1/links/{linkId}",
            api.remove,
            summary="Remove one of them; sessions begun by way of it end, this one rolls",
            answers={200: SignInAnswer},
            errors=[LinkNotFound, LastWayIn, StepUpRequired, CsrfFailed],
        ),
    ]


class LinksApi:
    """Handlers."""

    def __init__(self, links: OwnLinks, browser: BrowserSessions) -> None:
        self._links = links
        self._browser = browser

    async def list_links(self, caller: Caller) -> LinksAnswer:
        return LinksAnswer(links=[_answer(link) for link in await self._links.list(caller)])

    async def remove(self, request: Request, caller: Caller, linkId: str) -> Reply:
        rolled = await self._links.remove(caller, linkId, origin(request), key=self._browser.session_key(request))
        cookies = request.header("authorization") is None
        remember = self._browser.remembered(request)
        return sign_in_reply(self._browser, rolled, cookies=cookies, remember=remember, message="The link is removed")


def _answer(link: Link) -> LinkAnswer:
    return LinkAnswer(
        id=link.id,
        provider=link.provider,
        label=link.label,
        created_at=iso_ms(link.created_at),
        last_used_at=None if link.last_used_at is None else iso_ms(link.last_used_at),
    )
