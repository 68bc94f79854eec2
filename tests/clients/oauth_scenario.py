"""One walk through everything that an authorization server answers, told by what a client sees of it.

The same steps run against any server that can be found by its metadata. Each step is noted under a name: the status, the error, the
headers of interest, the names of what was answered, the claims of tokens. Two servers that agree leave the same notes.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from tests.clients.oauth_notes import Json, Notes, Target
from tests.clients.oauth_person import Forms, Person, claims

Pairs = Mapping[str, str | list[str] | None]

ELSEWHERE = "https://elsewhere.example"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
LISTS = (
    "response_types_supported", "response_modes_supported", "grant_types_supported", "code_challenge_methods_supported",
    "token_endpoint_auth_methods_supported", "id_token_signing_alg_values_supported", "scopes_supported", "subject_types_supported",
    "dpop_signing_alg_values_supported", "acr_values_supported",
)  # fmt: skip
FLAGS = (
    "authorization_response_iss_parameter_supported", "require_pushed_authorization_requests", "claims_parameter_supported",
    "request_parameter_supported", "request_uri_parameter_supported",
)  # fmt: skip
ENDPOINTS = (
    "authorization", "token", "userinfo", "revocation", "introspection", "device_authorization",
    "pushed_authorization_request", "registration", "end_session",
)  # fmt: skip


class Scenario:
    """The walk; `run` makes the notes."""

    def __init__(self, target: Target) -> None:
        self.to = target
        self.notes: Notes = {}
        self.people = ExitStack()
        self.http = httpx.Client(headers={"origin": ELSEWHERE}, timeout=120)
        self.metadata: Json = self.http.get(f"{target.issuer}/.well-known/openid-configuration").json()

    def run(self) -> Notes:
        with self.people:
            self.people.callback(self.http.close)
            for chapter in (
                self.discovery, self.authorization, self.code, self.refreshing, self.clients, self.machine, self.userinfo,
                self.introspection, self.revocation, self.pushed, self.device, self.dpop, self.registration, self.logout,
            ):  # fmt: skip
                chapter()
        return self.notes

    # --- making notes ---

    def note(self, step: str, **seen: Any) -> None:
        assert step not in self.notes, step
        self.notes[step] = seen

    def answer(self, step: str, answer: httpx.Response, *, body: bool = True) -> Json:
        """Notes an answer of an endpoint; its JSON."""
        kind = answer.headers.get("content-type", "").partition(";")[0]
        found: Any = answer.json() if kind.endswith("json") else {}
        scheme, _, rest = answer.headers.get("www-authenticate", "").partition(" ")
        fault = rest.partition('error="')[2].partition('"')[0]
        told = f" {found.get('error', 'without an error')}" if answer.status_code >= 400 else ""
        seen: dict[str, Any] = {
            "answer": f"{answer.status_code}{told}",
            "type": kind if answer.content else "",
            "no-store": "no-store" in answer.headers.get("cache-control", ""),
            "cors": "access-control-allow-origin" in answer.headers,
            "challenge": f"{scheme} {fault}".strip(),
        }
        if answer.status_code < 400 and body:
            seen["members"] = sorted(found)
        self.note(step, **seen)
        return found

    # --- tools ---

    def at(self, endpoint: str) -> str:
        return self.metadata[f"{endpoint}_endpoint"]

    def post(
        self, endpoint: str, pairs: Pairs, client: str | None = None, secret: str | None = None, **more: Any
    ) -> httpx.Response:
        """A form; with a client it authenticates as that one does."""
        given = {name: value for name, value in pairs.items() if value is not None}
        auth = None
        if client is not None:
            entry = self.to.clients[client]
            if "client_secret" in entry:
                auth = entry["client_id"], entry["client_secret"] if secret is None else secret
            else:
                given.setdefault("client_id", entry["client_id"])
        return self.http.post(self.at(endpoint), data=given, auth=auth or httpx.USE_CLIENT_DEFAULT, **more)

    def someone(self) -> Person:
        return self.people.enter_context(self.to.person())

    def asked(self, client: str = "web", **changes: Any) -> tuple[dict[str, str | list[str]], str]:
        """The parameters of an authorization request, and the verifier of its challenge."""
        verifier = secrets.token_urlsafe(48)
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        given: dict[str, str | list[str] | None] = {
            "client_id": self.to.clients[client]["client_id"],
            "response_type": "code",
            "redirect_uri": self.to.callback,
            "scope": self.to.scope,
            "state": "a state & more",
            "nonce": "a nonce",
            "prompt": "consent",
            "code_challenge": digest,
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in given.items() if value is not None}, verifier

    def address(self, parameters: Mapping[str, str | list[str]]) -> str:
        return f"{self.at('authorization')}?{urlencode(parameters, doseq=True)}"

    def granted(self, client: str = "web", person: Person | None = None, **changes: str | list[str] | None) -> Json:
        """Tokens, by the code flow."""
        parameters, verifier = self.asked(client, **changes)
        back = (person or self.someone()).authorize(self.address(parameters))
        code = parse_qs(urlsplit(back).query)["code"][0]
        answer = self.redeemed(code, verifier, client)
        assert answer.status_code == 200, answer.text
        return {**answer.json(), "code": code, "verifier": verifier}

    def redeemed(self, code: str, verifier: str | None, client: str = "web", **changes: Any) -> httpx.Response:
        given = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.to.callback,
            "code_verifier": verifier,
        }
        return self.post("token", given | changes, client)

    def fresh_code(self, person: Person, client: str = "web", **changes: str | None) -> tuple[str, str]:
        parameters, verifier = self.asked(client, **changes)
        back = person.authorize(self.address(parameters))
        return parse_qs(urlsplit(back).query)["code"][0], verifier

    def refreshed(self, token: str, client: str = "web", **changes: Any) -> httpx.Response:
        return self.post("token", {"grant_type": "refresh_token", "refresh_token": token, **changes}, client)

    def told(self, token: str, client: str = "web") -> Any:
        return self.post("introspection", {"token": token}, client).json().get("active")

    def user(self, token: str, scheme: str = "Bearer", **headers: str) -> httpx.Response:
        return self.http.get(self.at("userinfo"), headers={"authorization": f"{scheme} {token}", **headers})

    # --- the walk ---

    def discovery(self) -> None:
        for name in ("openid-configuration", "oauth-authorization-server"):
            answer = self.http.get(f"{self.to.issuer}/.well-known/{name}")
            self.answer(f"discovery: {name}", answer, body=False)
        self.note("discovery: lists", **{name: sorted(self.metadata.get(name, [])) for name in LISTS})
        self.note("discovery: flags", **{name: self.metadata.get(name) for name in FLAGS})
        self.note("discovery: endpoints", **{name: f"{name}_endpoint" in self.metadata for name in ENDPOINTS})
        keys = self.http.get(self.metadata["jwks_uri"])
        self.answer("discovery: keys", keys)
        members = {name for key in keys.json()["keys"] for name in key}
        self.note("discovery: key members", secret=bool(members & {"d", "p", "q", "k"}), kid="kid" in members)

    def authorization(self) -> None:
        wrong: dict[str, dict[str, Any]] = {
            "no client": {"client_id": None},
            "unknown client": {"client_id": "nobody"},
            "another redirect_uri": {"redirect_uri": "https://evil.example/"},
            "redirect_uri with a suffix": {"redirect_uri": f"{self.to.callback}/more"},
            "no redirect_uri": {"redirect_uri": None},
            "repeated client_id": {"client_id": ["web", "web"]},
            "no response_type": {"response_type": None},
            "implicit": {"response_type": "token"},
            "hybrid": {"response_type": "code id_token"},
            "no challenge": {"code_challenge": None, "code_challenge_method": None},
            "challenge without method": {"code_challenge_method": None},
            "plain challenge": {"code_challenge_method": "plain"},
            "short challenge": {"code_challenge": "short"},
            "unknown scope": {"scope": "openid unknown"},
            "malformed scope": {"scope": 'openid "x"'},
            "repeated state": {"state": ["a", "b"]},
            "repeated scope": {"scope": ["openid", "profile"]},
            "request object": {"request": "e30.e30."},
            "foreign request_uri": {"request_uri": "https://evil.example/request"},
            "unknown request_uri": {"request_uri": "urn:ietf:params:oauth:request_uri:unknown"},
            "silent without session": {"prompt": "none"},
            "none and login": {"prompt": "none login"},
            "unknown prompt": {"prompt": "sometimes"},
            "unknown response_mode": {"response_mode": "carrier_pigeon"},
            "fragment": {"response_mode": "fragment", "prompt": "none"},
            "unknown resource": {"resource": "https://other.example/"},
            "resource with a fragment": {"resource": f"{self.to.api}#x"},
            "negative max_age": {"max_age": "-1"},
            "max_age no number": {"max_age": "x"},
            "garbage as id_token_hint": {"id_token_hint": "garbage", "prompt": "none"},
            "empty scope": {"scope": ""},
            "unknown parameter": {"colour": "blue", "prompt": "none"},
        }
        for name, changes in wrong.items():
            parameters, _ = self.asked(**changes)
            self.arrived(f"authorize: {name}", self.http.get(self.address(parameters)))
        parameters, _ = self.asked()
        page = self.http.post(self.at("authorization"), data=parameters)
        self.note("authorize: by POST", status=page.status_code)
        put = self.http.put(self.at("authorization"), data=parameters)
        self.note("authorize: by PUT", refused=put.status_code in (404, 405))
        somebody = self.someone()
        back = somebody.authorize(self.address(parameters), allow=False)
        self.arrived("authorize: denied", httpx.Response(303, headers={"location": back}))
        unasked, _ = self.asked("other", prompt="none")
        self.arrived("authorize: silent without consent", somebody.http.get(self.address(unasked)))
        last = somebody.pages[-1]
        self.note("authorize: last redirect", status=last.status_code)

    def arrived(self, step: str, answer: httpx.Response) -> None:
        """Notes where an authorization request has led to: the app, with what, or a page."""
        target = urlsplit(answer.headers.get("location", ""))
        if not answer.headers.get("location", "").startswith(self.to.callback):
            self.note(step, leads=f"page {answer.status_code}" if answer.status_code >= 400 else "on")
            return
        found = parse_qs(target.query or target.fragment)
        echoed = [
            "query" if target.query else "fragment",
            *(["iss"] if found.get("iss") == [self.to.issuer] else []),
            *(["state"] if found.get("state") == ["a state & more"] else []),
        ]
        self.note(step, leads=f"app {found.get('error', ['with a code'])[0]} ({', '.join(echoed)})")

    def code(self) -> None:
        tokens = self.granted()
        person = self.someone()
        code, verifier = self.fresh_code(person)
        wrong: dict[str, tuple[str, str | None, dict[str, Any]]] = {
            "unknown code": ("unknown", verifier, {}),
            "empty code": ("", verifier, {}),
            "another redirect_uri": (code, verifier, {"redirect_uri": f"{self.to.callback}2"}),
        }
        for name, (given, proof, changes) in wrong.items():
            self.answer(f"token: {name}", self.redeemed(given, proof, **changes))
        for name, changes in {
            "wrong verifier": {"code_verifier": "x" * 43},
            "no verifier": {"code_verifier": None},
            "short verifier": {"code_verifier": "x" * 42},
        }.items():
            code, verifier = self.fresh_code(person)
            self.answer(f"token: {name}", self.redeemed(code, verifier, **changes))
            self.answer(f"token: the right one after {name}", self.redeemed(code, verifier), body=False)
        code, verifier = self.fresh_code(person)
        self.answer("token: another client's code", self.redeemed(code, verifier, "other"))
        code, verifier = self.fresh_code(person)
        answer = self.redeemed(code, verifier)
        first = self.answer("token: by code", answer)
        self.note("token: by code, values", type=first["token_type"], scope=sorted(first["scope"].split()))
        self.answer("token: code again", self.redeemed(code, verifier))
        self.note(
            "token: after the replay",
            access=self.told(first["access_token"]),
            refresh=self.refreshed(first["refresh_token"]).json().get("error"),
        )
        for_api = self.granted(person=person, scope="posts:read", resource=self.to.api, nonce=None)
        for name, token in (("ID", tokens["id_token"]), ("access", for_api["access_token"])):
            found = claims(token)
            self.note(f"token: {name} token", claims=sorted(found), audience=self.audience(found["aud"]))
        without = self.granted(scope="openid", person=person, prompt=None)
        self.note("token: without offline_access", members=sorted(set(without) - {"code", "verifier"}))

    def audience(self, given: str | list[str]) -> str:
        named = {self.to.issuer: "issuer", self.to.api: "api", self.to.clients["web"]["client_id"]: "client"}
        return ",".join(named.get(one, one) for one in ([given] if isinstance(given, str) else given))

    def refreshing(self) -> None:
        tokens = self.granted()
        self.answer("refresh: unknown token", self.refreshed("unknown"))
        self.answer("refresh: no token", self.post("token", {"grant_type": "refresh_token"}, "web"))
        self.answer("refresh: another client's", self.refreshed(tokens["refresh_token"], "other"))
        self.answer("refresh: wider scope", self.refreshed(tokens["refresh_token"], scope="openid nothing"))
        narrow = self.answer("refresh: narrower scope", self.refreshed(tokens["refresh_token"], scope="openid"))
        self.note("refresh: narrower scope, values", scope=narrow.get("scope"))
        wide = self.answer("refresh: full scope after it", self.refreshed(narrow["refresh_token"]))
        self.note("refresh: full scope after it, values", scope=sorted(wide.get("scope", "").split()))
        self.note("refresh: rotated", new=wide["refresh_token"] != narrow["refresh_token"])
        self.answer(
            "refresh: unknown resource", self.refreshed(wide["refresh_token"], resource="https://other.example/")
        )
        retried = self.answer("refresh: answer lost, asked again", self.refreshed(narrow["refresh_token"]), body=False)
        self.note("refresh: after that", same=retried.get("refresh_token") == wide["refresh_token"])
        old = self.granted()
        second = self.refreshed(old["refresh_token"]).json()
        third = self.refreshed(second["refresh_token"]).json()
        self.answer("refresh: grandparent", self.refreshed(old["refresh_token"]))
        self.answer("refresh: head after that", self.refreshed(third["refresh_token"]))
        self.note("refresh: access token after that", active=self.told(third["access_token"]))

    def clients(self) -> None:
        web, body = self.to.clients["web"], {"grant_type": "client_credentials"}
        both = {**body, "client_id": web["client_id"], "client_secret": web["client_secret"]}
        self.answer("client: wrong secret in the header", self.post("token", body, "web", secret="wrong"))
        self.answer("client: wrong method", self.post("token", both))
        self.answer("client: two methods", self.post("token", both, "web"))
        self.answer("client: unknown, header", self.http.post(self.at("token"), data=body, auth=("nobody", "x")))
        self.answer("client: unknown, form", self.post("token", {**body, "client_id": "nobody"}))
        self.answer("client: none", self.post("token", body))
        self.answer("client: secret missing", self.post("token", {**body, "client_id": web["client_id"]}))
        self.answer("client: grant not allowed", self.post("token", body, "web"))
        self.answer("client: public asks as a machine", self.post("token", body, "public"))
        self.answer("grant: none", self.post("token", {}, "web"))
        self.answer("grant: unknown", self.post("token", {"grant_type": "telepathy"}, "web"))
        password = {"grant_type": "password", "username": "a", "password": "b"}
        self.answer("grant: password", self.post("token", password, "web"))
        self.answer("grant: repeated", self.post("token", {"grant_type": ["password", "password"]}, "web"))
        auth = web["client_id"], web["client_secret"]
        self.answer("grant: as JSON", self.http.post(self.at("token"), json=body, auth=auth))
        self.note("grant: by GET", refused=self.http.get(self.at("token"), params=body).status_code in (404, 405))
        preflight = {"access-control-request-method": "POST", "access-control-request-headers": "dpop"}
        asked = self.http.options(self.at("token"), headers=preflight)
        self.note("token: preflight", allowed="access-control-allow-origin" in asked.headers)
        asked = self.http.options(self.at("authorization"), headers=preflight)
        self.note("authorize: preflight", allowed="access-control-allow-origin" in asked.headers)

    def machine(self) -> None:
        body = {"grant_type": "client_credentials"}
        made = self.answer("machine: token", self.post("token", {**body, "scope": "posts:read"}, "machine"))
        found = claims(made["access_token"])
        self.note(
            "machine: claims",
            claims=sorted(found),
            subject=found["sub"] == self.to.clients["machine"]["client_id"],
            scope=made["scope"],
            audience=self.audience(found["aud"]),
        )
        other = self.answer("machine: for the API", self.post("token", {**body, "resource": self.to.api}, "machine"))
        self.note("machine: for the API, values", audience=self.audience(claims(other["access_token"])["aud"]))
        for name, more in {
            "unknown scope": {"scope": "unknown"},
            "scope of people": {"scope": "openid"},
            "unknown resource": {"resource": "https://other.example/"},
            "resource no URI": {"resource": "api"},
        }.items():
            self.answer(f"machine: {name}", self.post("token", {**body, **more}, "machine"))

    def userinfo(self) -> None:
        tokens = self.granted()
        found = self.answer("userinfo: claims", self.user(tokens["access_token"]))
        self.note("userinfo: subject", same=found["sub"] == claims(tokens["id_token"])["sub"])
        url, token = self.at("userinfo"), tokens["access_token"]
        self.answer("userinfo: by POST", self.http.post(url, headers={"authorization": f"Bearer {token}"}))
        self.answer("userinfo: token in the form", self.http.post(url, data={"access_token": token}))
        self.answer("userinfo: token in the address", self.http.get(url, params={"access_token": token}))
        self.answer("userinfo: no token", self.http.get(url))
        self.answer("userinfo: bad token", self.user("bad"))
        two = self.http.post(url, data={"access_token": token}, headers={"authorization": f"Bearer {token}"})
        self.answer("userinfo: two tokens", two)
        machine = self.post("token", {"grant_type": "client_credentials", "scope": "posts:read"}, "machine").json()
        self.answer("userinfo: of a machine", self.user(machine["access_token"]))
        plain = self.granted(scope="posts:read", nonce=None)
        self.answer("userinfo: without openid", self.user(plain["access_token"]))

    def introspection(self) -> None:
        tokens = self.granted()
        ask: Callable[..., httpx.Response] = lambda token, client="web": self.post(  # noqa: E731
            "introspection", {"token": token}, client
        )
        self.answer("introspect: access token", ask(tokens["access_token"]))
        self.answer("introspect: refresh token", ask(tokens["refresh_token"]))
        self.answer("introspect: ID token", ask(tokens["id_token"]))
        self.answer("introspect: garbage", ask("garbage"))
        self.answer("introspect: another client's", ask(tokens["access_token"], "other"))
        self.answer("introspect: no token", self.post("introspection", {}, "web"))
        self.answer("introspect: nobody asks", self.post("introspection", {"token": "x"}))
        self.answer("introspect: wrong secret", self.post("introspection", {"token": "x"}, "web", secret="wrong"))
        self.answer("introspect: a public client asks", ask(tokens["access_token"], "public"))

    def revocation(self) -> None:
        tokens = self.granted()
        revoke: Callable[..., httpx.Response] = lambda token, client="web", **more: self.post(  # noqa: E731
            "revocation", {"token": token, **more}, client
        )
        self.answer("revoke: garbage", revoke("garbage"))
        self.answer("revoke: another client's", revoke(tokens["refresh_token"], "other"))
        self.note("revoke: after that", active=self.told(tokens["refresh_token"]))
        self.answer("revoke: no token", self.post("revocation", {}, "web"))
        self.answer("revoke: nobody asks", self.post("revocation", {"token": "x"}))
        self.answer("revoke: wrong hint", revoke(tokens["refresh_token"], token_type_hint="access_token"))
        self.note(
            "revoke: refresh token, after that",
            access=self.told(tokens["access_token"]),
            refresh=self.told(tokens["refresh_token"]),
        )
        tokens = self.granted()
        self.answer("revoke: access token", revoke(tokens["access_token"]))
        self.note(
            "revoke: access token, after that",
            access=self.told(tokens["access_token"]),
            refresh=self.told(tokens["refresh_token"]),
        )

    def pushed(self) -> None:
        person = self.someone()
        push: Callable[..., httpx.Response] = lambda given, client="web": self.post(  # noqa: E731
            "pushed_authorization_request", given, client
        )
        given, verifier = self.asked()
        first = self.answer("par: pushed", push(given))
        self.note("par: request_uri", urn=first["request_uri"].startswith("urn:ietf:params:oauth:request_uri:"))
        short = {"client_id": self.to.clients["web"]["client_id"], "request_uri": first["request_uri"]}
        stolen = {"client_id": self.to.clients["other"]["client_id"], "request_uri": first["request_uri"]}
        self.arrived("par: another client's", self.http.get(self.address(stolen)))
        self.http.get(self.address(short))  # a page that is left and opened again
        back = person.authorize(self.address(short))
        code = parse_qs(urlsplit(back).query)["code"][0]
        self.answer("par: redeemed", self.redeemed(code, verifier))
        self.arrived("par: used again", self.http.get(self.address(short)))
        for name, changes in {
            "request_uri inside": {"request_uri": first["request_uri"]},
            "another redirect_uri": {"redirect_uri": "https://evil.example/"},
            "no challenge": {"code_challenge": None, "code_challenge_method": None},
            "unknown scope": {"scope": "openid unknown"},
            "implicit": {"response_type": "token"},
        }.items():
            self.answer(f"par: {name}", push(self.asked(**changes)[0]))
        self.answer("par: another's client_id", push(given, "other"))
        self.answer("par: nobody asks", push({**given, "client_id": None}, None))
        get = self.http.get(self.at("pushed_authorization_request"), params=given)
        self.note("par: by GET", refused=get.status_code in (404, 405))

    def device(self) -> None:
        start: Callable[..., httpx.Response] = lambda **more: self.post(  # noqa: E731
            "device_authorization", {"scope": self.to.scope, **more}, "device"
        )
        poll: Callable[..., httpx.Response] = lambda code, client="device": self.post(  # noqa: E731
            "token", {"grant_type": DEVICE_GRANT, "device_code": code}, client
        )
        started = self.answer("device: started", start())
        self.note("device: code", form="".join("X" if sign.isalnum() else sign for sign in started["user_code"]))
        self.answer("device: not yet", poll(started["device_code"]))
        self.answer("device: asked again at once", poll(started["device_code"]))
        self.answer("device: another client asks", poll(started["device_code"], "machine"))
        self.answer("device: unknown code", poll("unknown"))
        self.answer("device: no code", self.post("token", {"grant_type": DEVICE_GRANT}, "device"))
        self.answer("device: unknown scope", start(scope="openid unknown"))
        unknown = self.post("device_authorization", {"client_id": "nobody"})
        self.answer("device: unknown client", unknown)
        not_allowed = self.post("device_authorization", {"scope": "openid"}, "web")
        self.answer("device: client without the grant", not_allowed)
        started = start().json()  # one that was not asked for yet: it may be asked for at once
        self.connected(started["verification_uri_complete"], started["user_code"])
        self.answer("device: allowed", poll(started["device_code"]))
        self.answer("device: again", poll(started["device_code"]))
        started = start().json()
        self.connected(started["verification_uri_complete"], started["user_code"], allow=False)
        self.answer("device: denied", poll(started["device_code"]))

    def connected(self, address: str, code: str, *, allow: bool = True) -> None:
        """A person who opens the page of a device and lets it in, or not."""
        person = self.someone()
        page = person.open(address)
        no = ("decision", "deny"), ("abort", "yes")
        while True:
            forms = Forms(page.text).found
            refusing = [(form, one) for form in forms for one in form.buttons if one in no]
            typed = next((form for form in forms if "user_code" in form.names and not form.buttons), None)
            by_itself = next((form for form in forms if not form.buttons), None)  # sent by a script on that page
            if refusing and not allow:
                person.submit(page, refusing[0][0], button=refusing[0][1])
                return
            if typed is not None:
                page = person.submit(page, typed, {"user_code": code})
            elif by_itself is not None and "password" not in by_itself.names:
                page = person.submit(page, by_itself)
            elif forms:
                page = person.step(page)
            else:
                return

    def dpop(self) -> None:
        key = ECKey.generate_key("P-256")
        public = self.at("token")

        def proof(url: str, *, by: ECKey = key, method: str = "POST", **changes: Any) -> str:
            header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": by.as_dict(private=False)}
            body = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time()), **changes}
            return jwt.encode(header, body, by, algorithms=["ES256"])

        def redeem(code: str, verifier: str, given: str | None) -> httpx.Response:
            headers = {} if given is None else {"dpop": given}
            form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.to.callback}
            return self.post("token", {**form, "code_verifier": verifier}, "dpop", headers=headers)

        person = self.someone()
        twice = proof(public)
        for name, given in {
            "no proof": None,
            "garbage": "garbage",
            "another method": proof(public, method="GET"),
            "another address": proof(f"{self.to.issuer}/elsewhere"),
            "old": proof(public, iat=int(time.time()) - 3600),
            "without jti": proof(public, jti=None),
        }.items():
            code, verifier = self.fresh_code(person, "dpop")
            self.answer(f"dpop: {name}", redeem(code, verifier, given))
        code, verifier = self.fresh_code(person, "dpop")
        tokens = self.answer("dpop: code", redeem(code, verifier, twice))
        self.note("dpop: values", type=tokens.get("token_type"))
        code, verifier = self.fresh_code(person, "dpop")
        self.answer("dpop: proof again", redeem(code, verifier, twice))
        token = tokens["access_token"]
        ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
        url = self.at("userinfo")
        self.answer("dpop: userinfo", self.user(token, "DPoP", dpop=proof(url, method="GET", ath=ath)))
        self.answer("dpop: userinfo without ath", self.user(token, "DPoP", dpop=proof(url, method="GET")))
        self.answer("dpop: as bearer", self.user(token))
        self.answer("dpop: refresh without proof", self.refreshed(tokens["refresh_token"], "dpop"))
        other = {"dpop": proof(public, by=ECKey.generate_key("P-256"))}
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        self.answer("dpop: refresh with another key", self.post("token", form, "dpop", headers=other))
        self.answer("dpop: refresh", self.post("token", form, "dpop", headers={"dpop": proof(public)}))

    def registration(self) -> None:
        invited = {"authorization": f"Bearer {self.to.invitation}"}
        metadata: Json = {"client_name": "New", "redirect_uris": [self.to.callback], "scope": "openid profile"}

        def register(headers: Mapping[str, str] = invited, **changes: Any) -> httpx.Response:
            return self.http.post(self.at("registration"), json=metadata | changes, headers=headers)

        self.answer("register: uninvited", register(headers={}))
        self.answer("register: bad invitation", register(headers={"authorization": "Bearer bad"}))
        for name, changes in {
            "no redirect_uris": {"redirect_uris": []},
            "fragment": {"redirect_uris": ["https://a.example/#x"]},
            "javascript": {"redirect_uris": ["javascript:alert(1)"]},
            "redirect_uris no list": {"redirect_uris": "https://a.example/"},
            "unknown method": {"token_endpoint_auth_method": "telepathy"},
            "unknown grant": {"grant_types": ["telepathy"]},
            "implicit": {"grant_types": ["implicit"], "response_types": ["token"]},
            "unknown scope": {"scope": "unknown"},
            "key method without keys": {"token_endpoint_auth_method": "private_key_jwt"},
        }.items():
            self.answer(f"register: {name}", register(**changes))
        text = self.http.post(
            self.at("registration"), content=b"nonsense", headers={**invited, "content-type": "application/json"}
        )
        self.answer("register: no JSON", text)
        made = self.answer("register: made", register(colour="blue"), body=False)
        self.note(
            "register: values",
            method=made["token_endpoint_auth_method"],
            grants=made["grant_types"],
            responses=made["response_types"],
            never=made["client_secret_expires_at"],
            unknown="colour" in made,
        )
        own = {"authorization": f"Bearer {made['registration_access_token']}"}
        url = made["registration_client_uri"]
        self.answer("register: read", self.http.get(url, headers=own), body=False)
        self.answer("register: read with a bad token", self.http.get(url, headers={"authorization": "Bearer bad"}))
        self.answer("register: read without token", self.http.get(url))
        body = {**metadata, "client_id": made["client_id"], "client_name": "Newer"}
        replaced = self.answer("register: replaced", self.http.put(url, json=body, headers=own), body=False)
        own = {
            "authorization": f"Bearer {replaced.get('registration_access_token', made['registration_access_token'])}"
        }
        self.answer("register: deleted", self.http.delete(url, headers=own))
        self.answer("register: read after that", self.http.get(url, headers=own))

    def logout(self) -> None:
        person = self.someone()
        tokens = self.granted(person=person)
        where = {"post_logout_redirect_uri": self.to.bye, "state": "until then"}

        def leave(**given: str) -> httpx.Response:
            return person.open(f"{self.at('end_session')}?{urlencode(given)}")

        evil = leave(id_token_hint=tokens["id_token"], post_logout_redirect_uri="https://evil.example/")
        self.note("logout: another address", status=evil.status_code, left=evil.is_redirect)
        self.note("logout: garbage as hint", status=leave(id_token_hint="garbage").status_code)
        self.note("logout: address without client", status=leave(**where).status_code)
        page = leave(id_token_hint=tokens["id_token"], **where)
        self.note("logout: asks first", status=page.status_code)
        form = next(form for form in Forms(page.text).found if form.buttons)
        button = next(one for one in form.buttons if one in (("decision", "logout"), ("logout", "yes")))
        back = person.submit(page, form, button=button)
        self.note("logout: way back", status=back.status_code, to=back.headers["location"].replace("%20", "+"))
        parameters, _ = self.asked(prompt="none")
        self.arrived("logout: silent after that", person.http.get(self.address(parameters)))
        self.answer("logout: refresh after that", self.refreshed(tokens["refresh_token"]), body=False)
