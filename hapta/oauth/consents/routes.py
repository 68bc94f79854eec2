"""`GET` and `DELETE /identity/v1/grants`: what the person has allowed apps (contract identity, section 25)."""

from __future__ import annotations

from hapta.http.api import Endpoint, Reply, Request, Table
from hapta.http.errors import ENVELOPE
from hapta.identity.policy import origin
from hapta.kit.access import SESSION, Caller
from hapta.kit.clock import iso_ms
from hapta.oauth.consents.errors import GrantNotFound
from hapta.oauth.consents.models import ConnectedApp
from hapta.oauth.consents.schemas import GrantAnswer, GrantsAnswer, Nothing
from hapta.oauth.consents.service import Consents


def routes(consents: Consents) -> list[Endpoint]:
    """The URL table of grants."""
    api = GrantApi(consents)
    table = Table(dialect=ENVELOPE, access=SESSION, limit="account", tag="grants", cookies=True)
    return [
        table.get("/identity/v1/grants", api.list, summary="Apps with access", answers={200: GrantsAnswer}),
        table.delete(
            "/identity/v1/grants/{clientId}",
            api.withdraw,
            summary="Take back what an app was allowed",
            answers={200: Nothing},
            errors=[GrantNotFound],
        ),
    ]


class GrantApi:
    """Handlers of the grants."""

    def __init__(self, consents: Consents) -> None:
        self._consents = consents

    async def list(self, caller: Caller) -> GrantsAnswer:
        return GrantsAnswer(grants=[_answer(app) for app in await self._consents.connected(caller.user_id)])

    async def withdraw(self, request: Request, caller: Caller, clientId: str) -> Reply:
        await self._consents.withdraw(caller.user_id, clientId, origin(request))
        return Reply(200, Nothing(), message="The app no longer has access")


def _answer(app: ConnectedApp) -> GrantAnswer:
    return GrantAnswer(
        client_id=app.client_id,
        name=app.name,
        verified=app.verified,
        client_uri=app.client_uri,
        scopes=[*app.scopes],
        texts=[*app.texts],
        resources=[*app.resources],
        allowed_at=iso_ms(app.allowed_at),
        created_at=iso_ms(app.created_at),
    )
