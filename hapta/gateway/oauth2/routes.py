"""Where OAuth2 providers lead the browser back to, and the page that it ends on.

PocketBase's own redirect ends in its dashboard, which is closed from outside. The addresses are relative, so that they hold below a
prefix and behind a proxy.
"""

from __future__ import annotations

from hapta.gateway.limits.service import Limits
from hapta.gateway.models import NOBODY
from hapta.gateway.oauth2.service import Arrived, OAuth2Redirects
from hapta.http.api import Content, Endpoint, Form, Reply, Request, Table
from hapta.http.pages import HTML, Pages
from hapta.kit.access import PUBLIC
from hapta.kit.errors import HaptaError, Invalid, TooMany

TEMPLATES = ("hapta.gateway", "oauth2/templates")
"""For `Pages`."""
MAX_FORM_BYTES = 64 * 1024
CLOSE = "window.close();"
"""Works where the page is a window that a script has opened, as the SDK does."""


class OAuth2Routes:
    """Handlers of the way back.

    Args:
        pages: with `TEMPLATES` among its folders.
    """

    def __init__(self, redirects: OAuth2Redirects, pages: Pages, limits: Limits) -> None:
        self._redirects = redirects
        self._pages = pages
        self._limits = limits

    def endpoints(self, prefix: str = "") -> list[Endpoint]:
        """The table below a path prefix."""
        table = Table(
            dialect=self._pages.dialect,
            access=PUBLIC,
            limit="handler",
            tag="gateway",
            hidden=bool(prefix),
            cors="none",
            max_body_bytes=MAX_FORM_BYTES,
        )
        path = prefix + "/api/oauth2-redirect"
        page = {200: Content(HTML, "A page that says so")}
        return [
            table.get(
                path, self.by_query, summary="Come back from a provider", answers={307: None}, errors=(Invalid, TooMany)
            ),
            table.post(
                path,
                self.by_form,
                summary="Come back from a provider that posts",
                answers={303: None},
                errors=(Invalid, TooMany),
            ),
            table.get(path + "/success", self.success, summary="The sign-in goes on in the app", answers=page),
            table.get(path + "/failure", self.failure, summary="The sign-in failed", answers=page),
        ]

    async def by_query(self, request: Request) -> Reply:
        return await self._arrive(Form.parse(request.query_string), request, 307)

    async def by_form(self, request: Request, body: Form) -> Reply:
        return await self._arrive(body, request, 303)

    async def success(self) -> Reply:
        return self._pages.reply("oauth2_redirect.html", script=CLOSE, went_well=True)

    async def failure(self) -> Reply:
        return self._pages.reply("oauth2_redirect.html", script=CLOSE, went_well=False)

    async def _arrive(self, form: Form, request: Request, status: int) -> Reply:
        await self._limits.drawn("auth", None, NOBODY, request.client_address)
        arrived = Arrived(*[form.one(name) or "" for name in Arrived._fields])
        try:  # whoever looks with HEAD uses nothing up
            went_well = request.method != "HEAD" and await self._redirects.arrive(arrived, request.client_address)
        except HaptaError:  # whoever stands before a browser gets the page, whatever is away
            went_well = False
        to = b"oauth2-redirect/success" if went_well else b"oauth2-redirect/failure"
        # The address bar held the code: neither caches nor the next page's referrer are to keep it.
        headers = ((b"location", to), (b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"))
        return Reply(status, None, headers)
