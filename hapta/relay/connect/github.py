"""Connecting a GitHub account: the way there, the way back, and the end of it (contract relay, section 8).

The way back is opened by GitHub in a browser without any token of ours, so the account stands in `state`: sealed by us, for this
purpose alone, for five minutes. It always leads on to the app, which is told by a code how it went.

A `state` may have been made by somebody else, who lures people onto the way to GitHub so that their account there is connected to
his here (RFC 6819, section 4.4.1.8; RFC 9700, section 4.7). So only the browser that began comes back connected at once, by a
nonce in a cookie; in any other one - apps begin in themselves and go on in the browser - whoever comes back is shown the account
and asked.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import structlog

from hapta.db.database import UniqueViolation
from hapta.http.fetch import FetchError, GuardedFetch
from hapta.kit.clock import Clock
from hapta.kit.errors import Unavailable
from hapta.kit.seal import Sealer
from hapta.relay.account.service import AccountService
from hapta.relay.connect.errors import GithubNotConfigured, GithubNotConnected
from hapta.relay.connect.models import github_path
from hapta.relay.connect.vault import Vault
from hapta.settings.relay import RelaySettings

SCOPE = "read:user,user:email,read:org,codespace"
STATE_MS = 5 * 60_000
MAX_STATE_CHARACTERS = 1024
MAX_CODE_CHARACTERS = 512
MAX_ERROR_CHARACTERS = 64
MAX_ANSWER_BYTES = 256 * 1024
CALLBACK = "/v1/connect/github/callback"
_CONTEXT = b"github-oauth-state"
_log = structlog.get_logger("hapta.relay.connect")

Exists = Callable[[str], Awaitable[bool]]


class _State(msgspec.Struct, frozen=True, array_like=True):
    account_id: str
    ends_at: int
    browser: str = ""
    """SHA-256 of the nonce that the browser keeps which began; empty: it was none of a page of ours."""


class _Granted(msgspec.Struct):
    access_token: str = ""
    error: str = ""


class Failed(Exception):
    """The way back ends here; `code` is what the app is told."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class GithubConnections:
    """Connects accounts.

    Args:
        sealer: of the purpose `relay-github-state`.
        exists: whether an account is there.
        public_url: the server's own address, for the way back.
    """

    def __init__(
        self,
        settings: RelaySettings,
        fetch: GuardedFetch,
        clock: Clock,
        sealer: Sealer,
        vault: Vault,
        accounts: AccountService,
        exists: Exists,
        public_url: str,
    ) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._sealer = sealer
        self._vault = vault
        self._accounts = accounts
        self._exists = exists
        self._redirect_url = settings.github_redirect_url or (f"{public_url}{CALLBACK}" if public_url else "")

    @property
    def app_url(self) -> str:
        """Where every way back leads."""
        return self._settings.app_url

    def begin(self, account_id: str, nonce: str = "") -> str:
        """Where the account's owner is sent to.

        Args:
            nonce: what the browser keeps; empty: nothing is kept.

        Raises:
            GithubNotConfigured
        """
        if not self._settings.github_client_id or not self._redirect_url:
            raise GithubNotConfigured
        state = msgspec.json.encode(_State(account_id, self._clock.now_ms() + STATE_MS, _digest(nonce)))
        query = {
            "client_id": self._settings.github_client_id,
            "redirect_uri": self._redirect_url,
            "scope": SCOPE,
            "state": urlsafe_b64encode(self._sealer.seal(state, _CONTEXT)).decode().rstrip("="),
        }
        return f"{self._settings.github_url.rstrip('/')}/login/oauth/authorize?{urlencode(query)}"

    def to_confirm(self, state: str, code: str, error: str, nonce: str) -> str | None:
        """The account that whoever comes back has to agree to first; None: this is the browser that began, or nothing is connected.

        Args:
            state, code, error: as GitHub hands them over; empty: not there.
            nonce: what the browser has kept; empty: nothing.
        """
        if error or not 0 < len(code) <= MAX_CODE_CHARACTERS:
            return None
        try:
            opened = self._opened(state)
        except Failed:
            return None
        began = nonce != "" and hmac.compare_digest(opened.browser, _digest(nonce))
        return None if began else opened.account_id

    async def finish(self, state: str, code: str, error: str) -> str:
        """Connects who comes back from GitHub, if all is well; where to send them then.

        Args:
            state, code, error: as GitHub hands them over; empty: not there.
        """
        try:
            login = await self._connect(state, code, error)
        except Failed as failed:
            return self._app({"error": failed.code})
        return self._app({"github": "connected", "user": login})

    def _app(self, query: Mapping[str, str]) -> str:
        url = self._settings.app_url
        return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"

    async def _connect(self, state: str, code: str, error: str) -> str:
        account_id = self._opened(state).account_id
        if not self._settings.github_client_id or not self._settings.github_client_secret:
            raise Failed("server_config")
        if error:
            raise Failed(error[:MAX_ERROR_CHARACTERS])
        token = await self._exchange(code)
        profile = await self._profile(token)
        try:
            if not await self._exists(account_id):
                raise Failed("user_not_found")
            sealed = self._vault.seal(github_path(account_id), token)
            await self._accounts.change_github(account_id, profile, sealed)
        except msgspec.ValidationError:  # no profile
            raise Failed("github_user_fetch_failed") from None
        except (Unavailable, UniqueViolation) as failure:
            _log.warning("a GitHub account was not connected", error=str(failure))
            raise Failed("server_error") from None
        return str(profile["login"])

    def _opened(self, state: str) -> _State:
        try:
            if len(state) > MAX_STATE_CHARACTERS or not state.isascii():
                raise Failed("invalid_state")
            sealed = urlsafe_b64decode(state + "=" * (-len(state) % 4))
            opened = msgspec.json.decode(self._sealer.open(sealed, _CONTEXT), type=_State)
        except (ValueError, msgspec.DecodeError):  # ValueError: no base64, or BadSeal
            raise Failed("invalid_state") from None
        if self._clock.now_ms() > opened.ends_at:
            raise Failed("invalid_state")
        return opened

    async def _exchange(self, code: str) -> str:
        """The access token for a code (RFC 6749, section 4.1.3; GitHub answers a refusal with status 200)."""
        if not code or len(code) > MAX_CODE_CHARACTERS:
            raise Failed("no_access_token")
        form = {
            "client_id": self._settings.github_client_id,
            "client_secret": self._settings.github_client_secret,
            "code": code,
            "redirect_uri": self._redirect_url,
        }
        headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
        url = f"{self._settings.github_url.rstrip('/')}/login/oauth/access_token"
        try:
            answer = await self._fetch.request("POST", url, headers=headers, body=urlencode(form).encode())
            granted = msgspec.json.decode(answer.body, type=_Granted)
        except (FetchError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as failure:
            _log.warning("no token of GitHub", error=str(failure))
            raise Failed("no_access_token") from None
        if granted.error:
            raise Failed(granted.error[:MAX_ERROR_CHARACTERS])
        if not granted.access_token or not granted.access_token.isascii() or not granted.access_token.isprintable():
            raise Failed("no_access_token")
        return granted.access_token

    async def _profile(self, token: str) -> dict[str, Any]:
        headers = {"accept": "application/vnd.github+json", "authorization": f"Bearer {token}"}
        url = f"{self._settings.github_api_url.rstrip('/')}/user"
        try:
            answer = await self._fetch.request("GET", url, headers=headers, max_bytes=MAX_ANSWER_BYTES)
            if answer.status != 200:
                raise Failed("github_user_fetch_failed")
            profile = msgspec.json.decode(answer.body, type=dict[str, Any])
        except (FetchError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as failure:
            _log.warning("no profile of GitHub", error=str(failure))
            raise Failed("github_user_fetch_failed") from None
        if not profile.get("id") or not profile.get("login"):
            raise Failed("github_user_fetch_failed")
        return profile

    async def end(self, account_id: str) -> None:
        """Forgets an account's GitHub account and its token here; names stay.

        Raises:
            GithubNotConnected
        """
        if not await self._accounts.change_github(account_id, None):
            raise GithubNotConnected


def _digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode("utf-8", "surrogateescape")).hexdigest() if nonce else ""
