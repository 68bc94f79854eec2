"""One person and one app, through every protocol endpoint of a whole server; the tests look at what it leaves behind.

Whatever is secret on the way is collected in `Story.secrets`, so that a test can look for it where it must not be.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

import httpx

from hapta.oauth.clients.models import Created, NewClient
from hapta.oauth.models import DEVICE_GRANT
from hapta.testing.server import TestHapta
from tests.identity.page_house import Visitor, query_of
from tests.oauth.authorize_house import FORM, PageForm

EMAIL, PASSWORD = "ada@example.org", "the canary sings at half past three"
URL = "https://hapta.test"
REDIRECT_URI = "https://app.example/callback"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
SCOPE = "openid profile email offline_access"


def visitor_of(hapta: TestHapta) -> Visitor:
    """A browser in front of a whole server."""
    return Visitor(cast(Any, SimpleNamespace(app=hapta.app, url=URL)))


class Story:
    """The person, the app and what they hold.

    Args:
        hapta: the server, on which the address may not be taken yet.
    """

    def __init__(self, hapta: TestHapta) -> None:
        self.hapta = hapta
        self.browser = visitor_of(hapta)
        self.secrets: set[str] = {PASSWORD}
        self.app: Created
        self.tokens: dict[str, Any] = {}

    async def begin(self) -> Story:
        """The account and the app."""
        oauth = self.hapta.app.services.oauth
        assert oauth is not None
        signed_up = await self.hapta.http.post("/identity/v1/register", json={"email": EMAIL, "password": PASSWORD})
        assert signed_up.status_code == 202
        grants = ["authorization_code", "refresh_token", "client_credentials", DEVICE_GRANT]
        self.app = await oauth.clients.create(
            NewClient(
                name="App",
                type="confidential",
                redirect_uris=[REDIRECT_URI],
                scopes=[*SCOPE.split(), "posts:read"],
                grant_types=cast(Any, grants),
            )
        )
        assert self.app.secret is not None
        self.secrets.add(self.app.secret)
        return self

    async def sign_in(self) -> None:
        answer = await self.browser.sign_in(EMAIL, PASSWORD)
        assert answer.status_code == 303, answer.text
        self.secrets.update(value[:-2] for name, value in self.browser.cookies.items() if name.startswith("__"))

    async def call(self, path: str, **form: str) -> httpx.Response:
        """A call of the app, which proves itself in the header."""
        auth = (self.app.client.client_id, self.app.secret or "")
        return await self.hapta.http.post(f"/oauth/{path}", data=form, auth=auth)

    async def authorize(self, **parameters: str) -> str:
        """The code that a consent ends with."""
        given = {
            "response_type": "code",
            "client_id": self.app.client.client_id,
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
            "state": "s",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "prompt": "consent",
        }
        answer = await self.browser.open("/oauth/authorize?" + urlencode(parameters or given))
        if answer.status_code == 200:
            answer = await self._allow()
        assert answer.status_code == 303, answer.text
        query = query_of(answer.headers["location"])
        assert query["iss"] == URL
        self.secrets.add(query["code"])
        return query["code"]

    async def _allow(self) -> httpx.Response:
        """Allows what the shown page asks for, all of it."""
        form = PageForm(self.browser.page)
        sent = urlencode([*form.fields, ("decision", "allow")])
        headers = {"sec-fetch-site": "same-origin", "origin": "null", "content-type": FORM}
        return await self.browser.http.post(form.action, content=sent, headers=headers)

    async def redeem(self, code: str) -> dict[str, Any]:
        grant = {"grant_type": "authorization_code", "redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER}
        return self._kept(await self.call("token", **grant, code=code))

    async def refresh(self) -> dict[str, Any]:
        token: str = self.tokens["refresh_token"]
        return self._kept(await self.call("token", grant_type="refresh_token", refresh_token=token))

    def _kept(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        self.tokens = answer.json()
        self.secrets.update(self.tokens[name] for name in self.tokens if name.endswith("_token"))
        return self.tokens

    async def userinfo(self) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens['access_token']}"}
        return await self.hapta.http.get("/oauth/userinfo", headers=headers)

    async def connect_device(self) -> None:
        """The whole device grant."""
        begun = (await self.call("device_authorization", scope="openid")).json()
        self.secrets.update((begun["device_code"], begun["user_code"]))
        await self.browser.open("/oauth/device?" + urlencode({"user_code": begun["user_code"]}))
        await self.browser.submit("/oauth/device", user_code=begun["user_code"])
        done = await self._allow()
        assert done.status_code in (200, 303), done.text
        self._kept(await self.call("token", grant_type=DEVICE_GRANT, device_code=begun["device_code"]))

    async def everything(self) -> None:
        """Every grant and every way in which something ends, once; each step asserts that it worked."""
        await self.begin()
        await self.sign_in()
        await self.redeem(await self.authorize())
        assert (await self.userinfo()).json()["email"] == EMAIL
        await self.refresh()
        assert (await self.call("introspect", token=self.tokens["access_token"])).json()["active"] is True
        pushed = await self.call(
            "par",
            response_type="code",
            redirect_uri=REDIRECT_URI,
            scope=SCOPE,
            code_challenge=CHALLENGE,
            code_challenge_method="S256",
        )
        assert pushed.status_code == 201, pushed.text
        client = {"client_id": self.app.client.client_id}
        await self.redeem(await self.authorize(**client, request_uri=pushed.json()["request_uri"]))
        assert (await self.call("revoke", token=self.tokens["refresh_token"])).status_code == 200
        assert (await self.userinfo()).status_code == 401
        await self.connect_device()
        machine = await self.call("token", grant_type="client_credentials", scope="posts:read")
        assert machine.status_code == 200, machine.text
        self.secrets.add(machine.json()["access_token"])
        wrong = await self.call("token", grant_type="refresh_token", refresh_token="not one of ours")
        assert wrong.status_code == 400
        grants = await self.browser.http.get("/identity/v1/grants")
        assert [one["clientId"] for one in grants.json()["data"]["grants"]] == [client["client_id"]]
        gone = await self.browser.call("DELETE", f"/identity/v1/grants/{client['client_id']}", origin=URL)
        assert gone.status_code == 200, gone.text
        await self.browser.open("/identity/logout")
        assert (await self.browser.submit("/identity/logout")).status_code == 303
