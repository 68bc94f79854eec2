"""`GET` and `POST /oauth/userinfo`: what a client may know of the person (OpenID Connect Core, section 5.3).

The token comes as Bearer or with a DPoP proof, or in the form of a POST; never in the address. Data comes from the identity store, as much of
it as the token's scopes open, and `sub` is the one of the ID token.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from hapta.http.api import Endpoint, Form, Reply, Request, Table
from hapta.http.caller import InsufficientScope
from hapta.http.errors import OAUTH
from hapta.identity.people import IdentityStore, Person
from hapta.kit.access import Access, Caller
from hapta.kit.errors import InvalidToken, MissingToken
from hapta.oauth.access_tokens import Judgement
from hapta.oauth.authorize.ports import Clients, DpopProofs
from hapta.oauth.errors import InvalidRequest
from hapta.oauth.subjects import Subjects

PATH = "/oauth/userinfo"
SCOPE = "openid"
_CHALLENGE = 'Bearer realm="hapta", DPoP algs="ES256 RS256 PS256 EdDSA"'
_NO_STORE = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))


class TokenVerifier(Protocol):
    """Judges third-party access tokens (`AccessTokens`)."""

    async def judge(self, token: str) -> Judgement | None:
        """All there is to know of a token that counts now; None for any other."""
        ...

    async def verify_bound(self, token: str, dpop_jkt: str | None) -> Caller:
        """The caller.

        Raises:
            InvalidToken: the token does not count, or is bound to another key.
        """
        ...


class UserInfoAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The claims (OpenID Connect Core, section 5.1); those that are not known or not opened are left out."""

    sub: str
    name: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    nickname: str | None = None
    preferred_username: str | None = None
    picture: str | None = None
    website: str | None = None
    birthdate: str | None = None
    zoneinfo: str | None = None
    locale: str | None = None
    updated_at: int | None = None
    email: str | None = None
    email_verified: bool | None = None
    phone_number: str | None = None
    phone_number_verified: bool | None = None


class NoToken(MissingToken):
    """There is no token; the challenge says what there might be, and no error (RFC 6750, section 3.1)."""

    code = "invalid_token"
    message = "An access token is needed"
    wire_headers = (("www-authenticate", _CHALLENGE),)


class BadAccessToken(InvalidToken):
    """The token does not count (RFC 6750, section 3.1)."""

    message = "The access token is expired, revoked or malformed"

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.wire_headers = (("www-authenticate", f'{scheme} realm="hapta", error="invalid_token"'),)


class BadTokenUse(InvalidRequest):
    """The token is in the wrong place, or there are two; told in the challenge as well (RFC 6750, section 3)."""

    wire_headers = (("www-authenticate", 'Bearer realm="hapta", error="invalid_request"'),)


def routes(
    tokens: TokenVerifier, dpop: DpopProofs, clients: Clients, people: IdentityStore, subjects: Subjects
) -> list[Endpoint]:
    """The URL table of UserInfo."""
    api = UserInfoApi(tokens, dpop, clients, people, subjects)
    # The edge reads bearer tokens in the header alone, so this endpoint judges its tokens itself.
    table = Table(dialect=OAUTH, access=Access("client", SCOPE), limit="default", tag="oauth", cors="open")
    errors = [InvalidRequest, NoToken, BadAccessToken, InsufficientScope]
    summary = "Claims about the person of an access token with the scope openid"
    return [
        table.get(PATH, api.get, summary=summary, answers={200: UserInfoAnswer}, errors=errors),
        table.post(PATH, api.post, summary=summary, answers={200: UserInfoAnswer}, errors=errors),
    ]


class UserInfoApi:
    """Handlers of UserInfo."""

    def __init__(
        self, tokens: TokenVerifier, dpop: DpopProofs, clients: Clients, people: IdentityStore, subjects: Subjects
    ) -> None:
        self._tokens = tokens
        self._dpop = dpop
        self._clients = clients
        self._people = people
        self._subjects = subjects

    async def get(self, request: Request) -> Reply:
        return await self._answer(request, None)

    async def post(self, request: Request, body: Form) -> Reply:
        return await self._answer(request, body.one("access_token"))

    async def _answer(self, request: Request, in_form: str | None) -> Reply:
        caller = await self._caller(request, in_form)
        if SCOPE not in caller.scopes:
            raise InsufficientScope.of(SCOPE)
        client = await self._clients.find(caller.client_id or "")
        person = await self._people.find(caller.user_id)
        if client is None or person is None or person.disabled:
            raise BadAccessToken("Bearer")
        return Reply(200, claims_of(person, self._subjects.of(client, person.user_id), caller.scopes), _NO_STORE)

    async def _caller(self, request: Request, in_form: str | None) -> Caller:
        if "access_token" in Form.parse(request.query_string):
            raise BadTokenUse("A token never goes into an address")  # RFC 6750, section 2.3; contract identity, 18
        lines = request.header_values("authorization")
        if len(lines) + (in_form is not None) > 1:
            raise BadTokenUse("There is more than one access token")
        if in_form is not None:
            scheme, token = "bearer", in_form
        elif lines:
            scheme, _, token = lines[0].partition(" ")
            scheme, token = scheme.lower(), token.strip(" ")
        else:
            raise NoToken
        if scheme not in ("bearer", "dpop") or not token or not token.isascii():
            raise NoToken
        bound = scheme == "dpop"
        refused = BadAccessToken("DPoP" if bound else "Bearer")
        found = await self._tokens.judge(token)
        if found is None or (found.dpop_jkt is not None) != bound:
            raise refused
        try:
            caller = await self._tokens.verify_bound(token, found.dpop_jkt)
        except InvalidToken:
            raise refused from None
        # Last: a proof is remembered when it is judged, and whoever has no token must not fill the database.
        if bound and await self._dpop.check(request, form_url_path=PATH, access_token=token) != found.dpop_jkt:
            raise refused
        return caller


def claims_of(person: Person, subject: str, scopes: frozenset[str]) -> UserInfoAnswer:
    """The claims about a person that these scopes open (OpenID Connect Core, section 5.4)."""
    claims: dict[str, object] = {"sub": subject}
    if "profile" in scopes:
        claims |= msgspec.structs.asdict(person.profile)
        claims["updated_at"] = person.updated_at // 1000
    if "email" in scopes and person.email is not None:
        claims |= {"email": person.email, "email_verified": person.email_verified}
    if "phone" in scopes and person.phone is not None:
        claims |= {"phone_number": person.phone, "phone_number_verified": person.phone_verified}
    return msgspec.convert(claims, UserInfoAnswer)
