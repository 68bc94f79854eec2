"""Routes of connections to other services: decode, call, encode (contract relay, section 8)."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

from hapta.http.api import Content, Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.http.pages import HTML, Pages, form_targets, redirect
from hapta.kit.access import DATA, PUBLIC, Caller
from hapta.kit.errors import Issue, ValidationFailed
from hapta.kit.ids import Ids
from hapta.relay.connect import webhook
from hapta.relay.connect.errors import (
    GithubNotConfigured,
    GithubNotConnected,
    InvalidPayload,
    InvalidSignature,
    NoEvent,
)
from hapta.relay.connect.github import CALLBACK, STATE_MS, GithubConnections
from hapta.relay.connect.models import VENDORS, Described, Vendor
from hapta.relay.connect.schemas import (
    DoneAnswer,
    ErrorAnswer,
    ParamsAnswer,
    RegisterToken,
    TokenAnswer,
    TokenItem,
    TokensAnswer,
    WebhookAnswer,
)
from hapta.relay.connect.service import VendorTokens

MAX_QUERY_PARAMETERS = 32
MAX_FORM_BYTES = 8 * 1024
SAME_PAGE = (None, "same-origin", "none")
"""What `Sec-Fetch-Site` says of a form of our own page, or of a browser that does not know the header."""


def routes(
    tokens: VendorTokens,
    github: GithubConnections,
    webhook_secret: str,
    pages: Pages,
    described: Described,
    ids: Ids,
    *,
    secure: bool,
) -> list[Endpoint]:
    """The URL table of connections.

    Args:
        pages: with the templates of the relay.
        described: what an account is shown as to its owner.
        secure: whether browsers reach this server by https.
    """
    api = ConnectApi(tokens, github, webhook_secret, pages, described, ids, secure=secure)
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="connect", max_body_bytes=512 * 1024)
    shown = replace(own, dialect=pages.dialect)
    return [
        own.get(
            "/v1/connect/github/params",
            api.params,
            summary="Where to go to connect a GitHub account",
            answers={200: ParamsAnswer},
            errors=[GithubNotConfigured],
        ),
        shown.get(
            CALLBACK,
            api.callback,
            summary="The way back from GitHub",
            description="Leads on to the app, with `?github=connected&user=<login>` or `?error=<code>`; in another browser than"
            " the one that began, by a page that asks first.",
            answers={302: None, 200: Content(HTML, "The page that asks")},
            access=PUBLIC,
            limit="default",
        ),
        shown.post(
            CALLBACK,
            api.confirm,
            summary="What was answered to the page on the way back from GitHub",
            answers={303: None},
            access=PUBLIC,
            limit="default",
            max_body_bytes=MAX_FORM_BYTES,
        ),
        own.post(
            "/v1/connect/github/webhook",
            api.webhook,
            summary="GitHub's webhook",
            description="Signed by GitHub over the raw body (`x-hub-signature-256`). 500: no secret is configured.",
            answers={200: WebhookAnswer, 500: ErrorAnswer},
            errors=[InvalidSignature, NoEvent, InvalidPayload],
            access=PUBLIC,
            limit="default",
            max_body_bytes=webhook.MAX_BYTES,
        ),
        own.delete(
            "/v1/connect/github",
            api.end,
            summary="Disconnect the GitHub account",
            answers={200: DoneAnswer},
            errors=[GithubNotConnected],
        ),
        own.get("/v1/connect/tokens", api.tokens, summary="All tokens of vendors", answers={200: TokensAnswer}),
        own.post(
            "/v1/connect/{vendor}/register",
            api.register,
            summary="Keep the token of a vendor",
            answers={200: DoneAnswer},
        ),
        own.get(
            "/v1/connect/{vendor}/token",
            api.token,
            summary="The token of a vendor",
            answers={200: TokenAnswer},
        ),
        own.delete(
            "/v1/connect/{vendor}",
            api.remove,
            summary="Forget the token of a vendor",
            answers={200: DoneAnswer},
        ),
    ]


class ConnectApi:
    """Handlers of connections."""

    def __init__(
        self,
        tokens: VendorTokens,
        github: GithubConnections,
        webhook_secret: str,
        pages: Pages,
        described: Described,
        ids: Ids,
        *,
        secure: bool,
    ) -> None:
        self._tokens = tokens
        self._github = github
        self._webhook_secret = webhook_secret
        self._pages = pages
        self._described = described
        self._ids = ids
        self._cookie = "__Host-hapta-github" if secure else "hapta-github"
        self._attributes = "Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")

    async def params(self, caller: Caller, request: Request) -> Reply:
        # Only of an answer to a page of ours it is certain that the browser keeps a cookie.
        if request.header("sec-fetch-site") != "same-origin":
            return Reply(200, ParamsAnswer(url=self._github.begin(caller.user_id)))
        nonce = self._ids.secret(24)
        answer = ParamsAnswer(url=self._github.begin(caller.user_id, nonce))
        return Reply(200, answer, (self._set_cookie(nonce, STATE_MS // 1000), (b"cache-control", b"no-store")))

    def _set_cookie(self, value: str, seconds: int) -> tuple[bytes, bytes]:
        return b"set-cookie", f"{self._cookie}={value}; Max-Age={seconds}; {self._attributes}".encode("ascii")

    async def callback(self, request: Request) -> Reply:
        # Not a typed query: whatever comes back, people are led on to the app.
        query = _query(request.query_string)
        state, code, error = query.get("state", ""), query.get("code", ""), query.get("error", "")
        nonce = request.cookies.get(self._cookie, "")
        account_id = self._github.to_confirm(state, code, error, nonce)
        if account_id is not None:
            return self._pages.reply(
                "github_confirm.html",
                form_action=form_targets(self._github.app_url),
                account=await self._described(account_id),
                action=CALLBACK,
                state=state,
                code=code,
            )
        location = await self._github.finish(state, code, error)
        used = (self._set_cookie("", 0),) if nonce else ()
        return Reply(302, None, ((b"location", location.encode()), (b"cache-control", b"no-store"), *used))

    async def confirm(self, request: Request, body: bytes) -> Reply:
        form = _query(body) if request.header("sec-fetch-site") in SAME_PAGE else {}
        agreed = form.get("answer") == "connect"
        error = "" if agreed else "access_denied"
        return redirect(await self._github.finish(form.get("state", ""), form.get("code", "") if agreed else "", error))

    async def webhook(self, request: Request, body: bytes) -> WebhookAnswer | Reply:
        if not self._webhook_secret:
            return Reply(500, ErrorAnswer(error="Webhook verification not configured"))
        signature, event = request.header("x-hub-signature-256"), request.header("x-github-event")
        received = await webhook.receive(self._webhook_secret, body, signature or "", event or "")
        return WebhookAnswer(
            received=True, event=received.event, processed=received.processed, message=received.message
        )

    async def end(self, caller: Caller) -> DoneAnswer:
        await self._github.end(caller.user_id)
        return DoneAnswer(success=True)

    async def tokens(self, caller: Caller) -> TokensAnswer:
        found = await self._tokens.list(caller.user_id)
        return TokensAnswer(tokens=[TokenItem(vendor=one.vendor, token=one.token) for one in found])

    async def register(self, caller: Caller, vendor: str, body: RegisterToken) -> DoneAnswer:
        await self._tokens.register(caller.user_id, _known(vendor), body.token)
        return DoneAnswer(success=True)

    async def token(self, caller: Caller, vendor: str) -> TokenAnswer:
        return TokenAnswer(token=await self._tokens.find(caller.user_id, _known(vendor)))

    async def remove(self, caller: Caller, vendor: str) -> DoneAnswer:
        await self._tokens.remove(caller.user_id, _known(vendor))
        return DoneAnswer(success=True)


def _known(vendor: str) -> Vendor:
    if vendor not in VENDORS:
        raise ValidationFailed([Issue(("vendor",), f"Expected one of {', '.join(VENDORS)}")])
    return vendor


def _query(raw: bytes) -> dict[str, str]:
    """Parameters of a query; of two with one name the first counts, and one that cannot be read has none."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), max_num_fields=MAX_QUERY_PARAMETERS, errors="strict")
    except ValueError:
        return {}
    return dict(reversed(pairs))
