"""Any OpenID provider, Google among them: discovery, code, ID token, UserInfo (contract identity, section 24).

The provider's own document says where its endpoints are; it is held against the issuer that the operator has set, and kept for an
hour. Its keys are fetched anew when a token names one that is not there, at most once a minute.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from hapta.http.fetch import FetchRefused, GuardedFetch
from hapta.identity.csrf import origin_of
from hapta.identity.upstream.calls import Calls, Json, access_token, form_quoted, text_or_none, with_query
from hapta.identity.upstream.errors import UpstreamAway, UpstreamRefused
from hapta.identity.upstream.github import challenge_of
from hapta.identity.upstream.id_token import IdToken, PublicKey, check_claims, subject_of
from hapta.identity.upstream.models import Answer, Attempt, UpstreamIdentity
from hapta.kit.clock import Clock

SCOPE = "openid email profile"
DOCUMENT_SECONDS = 3600.0
KEYS_SECONDS = 3600.0
KEYS_PAUSE_SECONDS = 60.0
FAILURE_SECONDS = 10.0
"""For so long nobody tries again what has just failed."""
MAX_KEYS = 100
GOOGLE_ISSUER = "https://accounts.google.com"
GOOGLE_ALIASES = ("accounts.google.com",)


class Configuration(NamedTuple):
    """What the provider says of itself (OpenID Connect Discovery, section 3)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    names_itself: bool
    """Whether its answers carry `iss` (RFC 9207)."""
    takes_basic: bool
    """Whether the client's secret goes in a header; else in the form."""


class OpenIdProvider:
    """Implements `models.Provider`.

    Args:
        name: a word for URLs and links.
        issuer: as the provider writes it.
        client_secret: empty for a client without one.
        aliases: other names that its tokens may give as their issuer.
        trust_email: whether its word that an address is verified counts. Many providers let people write what they like.
        hosted_domain: only people of this domain of Google's; empty: anybody.
        prefix_issuer: whether subjects are kept with the issuer, so that another issuer set later never meets the
            subjects of this one.
        prompt_again: what asks it to have people prove anew who they are.
    """

    def __init__(
        self,
        fetch: GuardedFetch,
        clock: Clock,
        name: str,
        label: str,
        issuer: str,
        client_id: str,
        client_secret: str = "",
        *,
        aliases: tuple[str, ...] = (),
        trust_email: bool = False,
        hosted_domain: str = "",
        prefix_issuer: bool = True,
        prompt_again: str = "login",
    ) -> None:
        self.name = name
        self.label = label
        self.leads_to = origin_of(issuer) or issuer
        self._calls = Calls(fetch)
        self._fetch = fetch
        self._clock = clock
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._aliases = aliases
        self._trust_email = trust_email
        self._hosted_domain = hosted_domain.lower()
        self._prefix_issuer = prefix_issuer
        self._prompt_again = prompt_again
        self._configuration: Configuration | None = None
        self._configured_at = self._failed_at = self._keys_at = float("-inf")
        self._keys: list[Json] = []
        self._turn = asyncio.Lock()

    # --- the journey ---

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """See `Provider.authorization_url`."""
        configuration = await self._configured()
        params = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": SCOPE,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge_of(attempt.verifier),
            "code_challenge_method": "S256",
        }
        if self._hosted_domain:
            params["hd"] = self._hosted_domain
        if attempt.again:
            params["prompt"] = self._prompt_again
        return with_query(configuration.authorization_endpoint, params)

    async def identify(self, answer: Answer, attempt: Attempt, redirect_uri: str) -> UpstreamIdentity:
        """See `Provider.identify`."""
        configuration = await self._configured()
        self._check_issuer(answer, configuration)
        given = await self._exchange(configuration, answer.code, attempt.verifier, redirect_uri)
        token = access_token(given)
        claims = await self._verified(configuration, given.get("id_token"), attempt.nonce, token)
        subject = subject_of(claims)
        if self._hosted_domain and str(claims.get("hd", "")).lower() != self._hosted_domain:
            raise UpstreamRefused("the account is of another domain")
        told = await self._userinfo(configuration, token, subject)
        source = claims if "email" in claims else told
        email = text_or_none(source.get("email"), 320)
        return UpstreamIdentity(
            provider=self.name,
            subject=f"{self._issuer}#{subject}" if self._prefix_issuer else subject,
            label=email or text_or_none(claims.get("preferred_username", told.get("preferred_username"))),
            email=email,
            # Only the boolean itself counts: a text like "false" would be true.
            email_verified=self._trust_email and email is not None and source.get("email_verified") is True,
            name=text_or_none(claims.get("name", told.get("name"))),
        )

    def _check_issuer(self, answer: Answer, configuration: Configuration) -> None:
        """RFC 9207, section 2.4: the mix-up defence of providers that name themselves."""
        if answer.issuer is None:
            if configuration.names_itself:
                raise UpstreamRefused("the answer does not name its issuer")
        elif answer.issuer != self._issuer:
            raise UpstreamRefused("the answer names another issuer")

    async def _exchange(self, configuration: Configuration, code: str, verifier: str, redirect_uri: str) -> Json:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        if self._client_secret and configuration.takes_basic:
            pair = f"{form_quoted(self._client_id)}:{form_quoted(self._client_secret)}"
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode('ascii')}"
        else:
            form["client_id"] = self._client_id
            if self._client_secret:
                form["client_secret"] = self._client_secret
        return await self._calls.exchange(configuration.token_endpoint, form, headers)

    async def _verified(self, configuration: Configuration, text: object, nonce: str, token: str) -> Json:
        parsed = IdToken(text)
        claims = parsed.verified(await self._key_of(configuration, parsed))
        check_claims(
            claims,
            issuers=(self._issuer, *self._aliases),
            client_id=self._client_id,
            nonce=nonce,
            clock=self._clock,
            alg=parsed.alg,
            access_token=token,
        )
        return claims

    async def _userinfo(self, configuration: Configuration, token: str, subject: str) -> Json:
        """OpenID Connect Core, section 5.3.2: what is said of somebody else is not to be used."""
        if configuration.userinfo_endpoint is None:
            return {}
        called = await self._calls.get(configuration.userinfo_endpoint, bearer=token)
        if called.status != 200:
            raise UpstreamRefused(f"UserInfo answers {called.status}")
        told = called.object()
        if subject_of(told) != subject:
            raise UpstreamRefused("UserInfo is about somebody else")
        return told

    # --- what the provider says of itself ---

    async def _configured(self) -> Configuration:
        """The configuration; an old one rather than none.

        Raises:
            UpstreamAway: it cannot be had, or is of another issuer.
        """
        async with self._turn:  # those who ask at once share one fetch
            now = self._clock.monotonic()
            known = self._configuration
            if known is not None and now - self._configured_at < DOCUMENT_SECONDS:
                return known
            if now - self._failed_at >= FAILURE_SECONDS:
                try:
                    known = self._read(await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
                    self._configuration, self._configured_at = known, now
                except (UpstreamAway, UpstreamRefused) as error:
                    self._failed_at = now
                    if known is None:
                        raise UpstreamAway(f"no configuration: {error.reason}") from None
        if known is None:
            raise UpstreamAway("the configuration could not be had a moment ago")
        return known

    def _read(self, document: Json) -> Configuration:
        if document.get("issuer") != self._issuer:
            raise UpstreamRefused("the configuration is of another issuer")
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        has_userinfo = document.get("userinfo_endpoint") is not None
        return Configuration(
            authorization_endpoint=self._address(document, "authorization_endpoint"),
            token_endpoint=self._address(document, "token_endpoint"),
            jwks_uri=self._address(document, "jwks_uri"),
            userinfo_endpoint=self._address(document, "userinfo_endpoint") if has_userinfo else None,
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
            takes_basic=isinstance(methods, list) and "client_secret_basic" in methods,
        )

    def _address(self, document: Json, member: str) -> str:
        url = document.get(member)
        if not isinstance(url, str) or not url.isascii() or not url.isprintable() or urlsplit(url).fragment:
            raise UpstreamRefused(f"the configuration has no {member}")
        try:
            self._fetch.check(url)
        except FetchRefused as error:
            raise UpstreamRefused(f"{member}: {error}") from None
        return url

    async def _key_of(self, configuration: Configuration, parsed: IdToken) -> PublicKey:
        async with self._turn:
            now = self._clock.monotonic()
            key = parsed.key_among(self._keys) if now - self._keys_at < KEYS_SECONDS else None
            if key is None and now - self._keys_at >= KEYS_PAUSE_SECONDS:
                keys = (await self._get(configuration.jwks_uri)).get("keys")
                if not isinstance(keys, list):
                    raise UpstreamRefused("the key set holds no keys")
                entries = cast("list[Any]", keys)[:MAX_KEYS]
                self._keys = [cast("Json", entry) for entry in entries if isinstance(entry, dict)]
                self._keys_at = now
                key = parsed.key_among(self._keys)
        if key is None:
            raise UpstreamRefused("the ID token is signed by a key that the provider does not have")
        return key

    async def _get(self, url: str) -> Json:
        called = await self._calls.get(url)
        if called.status != 200:
            raise UpstreamAway(f"{url} answers {called.status}")
        return called.object()


def google(fetch: GuardedFetch, clock: Clock, client_id: str, client_secret: str, hosted_domain: str) -> OpenIdProvider:
    """Google: its word on addresses counts where it says `email_verified`; its issuer has two spellings."""
    return OpenIdProvider(
        fetch,
        clock,
        "google",
        "Google",
        GOOGLE_ISSUER,
        client_id,
        client_secret,
        aliases=GOOGLE_ALIASES,
        trust_email=True,
        hosted_domain=hosted_domain,
        prefix_issuer=False,
        prompt_again="select_account",
    )
