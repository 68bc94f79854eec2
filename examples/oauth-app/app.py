"""A small web app whose people sign in at Hapta: python app.py --issuer URL --client client.json

It shows who signed in and what was allowed, calls the UserInfo endpoint with the access token, refreshes, and signs out. It knows the
server by its issuer alone: every address comes from the discovery document. Sessions live in memory and end with the process.
"""

from __future__ import annotations

import argparse
import html
import json
import secrets
import sys
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.common.security import generate_token
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

SCOPE = "openid profile email offline_access posts:read posts:write"
COOKIE = "example_app"
MAX_SESSIONS = 1000


class SignInFailed(Exception):
    """The sign-in did not come to its end; the message is for people."""


@dataclass
class Session:
    """One browser.

    Args:
        pending: state, nonce and verifier of the sign-in that it is in.
    """

    pending: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class App:
    """What the pages do.

    Args:
        issuer: the server's issuer, to the letter.
        client: what `hapta client create --json` printed.
    """

    def __init__(self, issuer: str, client: dict[str, Any]) -> None:
        self.issuer = issuer
        self.client = client
        self.sessions: dict[str, Session] = {}
        self.server = httpx.get(f"{issuer}/.well-known/openid-configuration").raise_for_status().json()
        if self.server["issuer"] != issuer:  # OpenID Connect Discovery, section 4.3
            raise SystemExit(f"the server at {issuer} calls itself {self.server['issuer']}")

    def oauth(self, tokens: dict[str, Any] | None = None) -> Any:
        """The library's client, for one call.

        Args:
            tokens: the session's own. The library repeats its scope when it refreshes, and what the person has unticked must not be in it.
        """
        return OAuth2Client(
            self.client["client_id"],
            self.client["client_secret"],
            token_endpoint_auth_method=self.client["auth_method"],
            redirect_uri=self.client["redirect_uris"][0],
            scope=SCOPE if tokens is None else tokens["scope"],
            code_challenge_method="S256",
            token=tokens,
        )

    def sign_in(self, session: Session) -> str:
        """Begins: where to send the browser."""
        session.pending = {"nonce": generate_token(32), "code_verifier": generate_token(64)}
        with self.oauth() as oauth:
            address, state = oauth.create_authorization_url(self.server["authorization_endpoint"], **session.pending)
        session.pending["state"] = state
        return address

    def finish(self, session: Session, query: str) -> None:
        """The browser is back: exchanges the code and checks the ID token.

        Raises:
            SignInFailed: the person said no, or the answer is not one to our question.
        """
        pending, session.pending = session.pending, {}
        given = {name: values[0] for name, values in parse_qs(query).items()}
        if not pending or not secrets.compare_digest(given.get("state", ""), pending["state"]):
            raise SignInFailed("This answer does not belong to a sign-in that began here.")
        if given.get("iss") != self.issuer:  # RFC 9207: another server's answer
            raise SignInFailed("This answer is another server's.")
        if "code" not in given:
            raise SignInFailed(f"The sign-in was refused: {given.get('error', 'no reason was given')}.")
        try:
            with self.oauth() as oauth:
                tokens = oauth.fetch_token(
                    self.server["token_endpoint"], code=given["code"], code_verifier=pending["code_verifier"]
                )
            session.claims = self.checked(tokens["id_token"], pending["nonce"])
        except (AuthlibBaseError, JoseError) as error:
            raise SignInFailed(f"The sign-in failed: {error}.") from error
        session.tokens = dict(tokens)

    def checked(self, id_token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token: signature, issuer, audience, time and nonce (OpenID Connect Core, section 3.1.3.7)."""
        keys = KeySet.import_key_set(httpx.get(self.server["jwks_uri"]).raise_for_status().json())
        token = jwt.decode(id_token, keys, algorithms=self.server["id_token_signing_alg_values_supported"])
        jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self.client["client_id"]},
            nonce={"essential": True, "value": nonce},
            exp={"essential": True},
        ).validate(token.claims)
        return token.claims

    def user(self, session: Session) -> dict[str, Any]:
        """What the server tells of the person now; nothing if the token does not count any more."""
        headers = {"authorization": f"Bearer {session.tokens['access_token']}"}
        answer = httpx.get(self.server["userinfo_endpoint"], headers=headers)
        return answer.json() if answer.is_success else {}

    def refresh(self, session: Session) -> None:
        """New tokens for the old ones. One at a time for each session: every refresh token is replaced when it is used."""
        with session.lock, self.oauth(session.tokens) as oauth:
            try:
                session.tokens = dict(oauth.refresh_token(self.server["token_endpoint"]))
                session.note = "The tokens are new."
            except AuthlibBaseError as error:
                session.note = f"The access was taken back ({error.error}). Sign in again."

    def sign_out(self, key: str, session: Session) -> str:
        """Forgets the session; where to send the browser so that it signs out at the server, too."""
        self.sessions.pop(key, None)
        hint = {"id_token_hint": session.tokens.get("id_token", "")} if session.tokens else {}
        back = {"post_logout_redirect_uri": self.client["post_logout_redirect_uris"][0]}
        return f"{self.server['end_session_endpoint']}?{urlencode({**hint, **back, 'client_id': self.client['client_id']})}"

    def page(self, session: Session) -> str:
        """The one page there is."""
        note = f"<p><strong>{html.escape(session.note)}</strong></p>" if session.note else ""
        session.note = ""
        if not session.tokens:
            return f'{note}<p>Nobody is signed in.</p><p><a href="/login">Sign in</a></p>'
        user = self.user(session)
        rows = {"subject": session.claims["sub"], "scope": session.tokens["scope"], **user}
        told = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows.items()
        )
        buttons = "".join(
            f'<form method="post" action="/{action}"><button>{text}</button></form>'
            for action, text in (("refresh", "Refresh the tokens"), ("logout", "Sign out"))
        )
        over = "" if user else "<p>The access token does not count any more.</p>"
        return f"{note}<p>Hello {html.escape(user.get('name') or user.get('email') or 'you')}!</p>{over}<dl>{told}</dl>{buttons}"


class Pages(BaseHTTPRequestHandler):
    """HTTP. The cookie names the session; SameSite keeps other sites from pressing our buttons."""

    app: App

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key, session = self.session()
        match url.path:
            case "/":
                self.show(key, self.app.page(session))
            case "/login":
                self.send(key, self.app.sign_in(session))
            case "/callback":
                try:
                    self.app.finish(session, url.query)
                except SignInFailed as failed:
                    session.note = str(failed)
                    self.send(key, "/")
                else:
                    # Whoever signs in gets a new session: nobody else can know its name.
                    self.app.sessions.pop(key, None)
                    self.send(self.new(session), "/")
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        key, session = self.session()
        match self.path:
            case "/refresh" if session.tokens:
                self.app.refresh(session)
                self.send(key, "/")
            case "/logout":
                self.send(key, self.app.sign_out(key, session))
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def session(self) -> tuple[str, Session]:
        cookie = SimpleCookie(self.headers.get("cookie", "")).get(COOKIE)
        found = None if cookie is None else self.app.sessions.get(cookie.value)
        if cookie is not None and found is not None:
            return cookie.value, found
        session = Session()
        return self.new(session), session

    def new(self, session: Session) -> str:
        while len(self.app.sessions) >= MAX_SESSIONS:
            self.app.sessions.pop(next(iter(self.app.sessions)), None)
        key = secrets.token_urlsafe(32)
        self.app.sessions[key] = session
        return key

    def show(self, key: str, body: str) -> None:
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Example app</title><h1>Example app</h1>{body}</html>'
        self.start(HTTPStatus.OK, key)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", "default-src 'none'; form-action *; frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(page.encode())

    def send(self, key: str, address: str) -> None:
        self.start(HTTPStatus.SEE_OTHER, key)
        self.send_header("Location", address)
        self.end_headers()

    def start(self, status: HTTPStatus, key: str) -> None:
        self.send_response(status)
        self.send_header("Set-Cookie", f"{COOKIE}={key}; Path=/; HttpOnly; SameSite=Lax")
        self.send_header("Cache-Control", "no-store")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the addresses have codes in them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--issuer", required=True, help="the address of the Hapta server")
    parser.add_argument("--client", type=Path, required=True, help="what `hapta client create --json` printed")
    given = parser.parse_args()
    client: dict[str, Any] = json.loads(given.client.read_text())
    Pages.app = App(given.issuer.rstrip("/"), client)
    callback = urlsplit(client["redirect_uris"][0])
    server = ThreadingHTTPServer((callback.hostname or "127.0.0.1", callback.port or 80), Pages)
    sys.stdout.write(f"Open http://{callback.netloc}/\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
