"""Routes of connections to other services: decode, call, encode (contract relay, section 8)."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import RELAY
from hapta.kit.access import DATA, PUBLIC, Caller
from hapta.kit.errors import Issue, ValidationFailed
from hapta.relay.connect import webhook
from hapta.relay.connect.errors import (
    GithubNotConfigured,
    GithubNotConnected,
    InvalidPayload,
    InvalidSignature,
    NoEvent,
)
from hapta.relay.connect.github import CALLBACK, GithubConnections
from hapta.relay.connect.models import VENDORS, Vendor
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


def routes(tokens: VendorTokens, github: GithubConnections, webhook_secret: str) -> list[Endpoint]:
    """The URL table of connections."""
    api = ConnectApi(tokens, github, webhook_secret)
    own = Table(dialect=RELAY, access=DATA, limit="account", tag="connect", max_body_bytes=512 * 1024)
    return [
        own.get(
            "/v1/connect/github/params",
            api.params,
            summary="Where to go to connect a GitHub account",
            answers={200: ParamsAnswer},
            errors=[GithubNotConfigured],
        ),
        own.get(
            CALLBACK,
            api.callback,
            summary="The way back from GitHub",
            description="Leads on to the app, with `?github=connected&user=<login>` or `?error=<code>`.",
            answers={302: None},
            access=PUBLIC,
            limit="default",
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

    def __init__(self, tokens: VendorTokens, github: GithubConnections, webhook_secret: str) -> None:
        self._tokens = tokens
        self._github = github
        self._webhook_secret = webhook_secret

    async def params(self, caller: Caller) -> ParamsAnswer:
        return ParamsAnswer(url=self._github.begin(caller.user_id))

    async def callback(self, request: Request) -> Reply:
        # Not a typed query: whatever comes back, people are led on to the app.
        query = _query(request.query_string)
        location = await self._github.finish(query.get("state", ""), query.get("code", ""), query.get("error", ""))
        return Reply(302, None, ((b"location", location.encode()), (b"cache-control", b"no-store")))

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
