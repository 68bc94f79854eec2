"""Inner values of sign-in through other providers. Instants are Unix milliseconds."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from hapta.kit.access import UserId


class UpstreamIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody as a provider knows them."""

    provider: str
    subject: str
    """Names the person there for good; never a login name or an address, which are renamed and handed on."""
    label: str | None = None
    """What the owner knows the account there by, for display alone."""
    email: str | None = None
    email_verified: bool = False
    """Whether the provider says so and its word counts."""
    name: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One journey to a provider and back. It lives sealed in a cookie of the browser that began it."""

    provider: str
    state: str
    verifier: str
    """Of PKCE (RFC 7636)."""
    nonce: str
    continue_to: str | None
    remember: bool
    expires_at: int
    link_to: UserId | None = None
    """The account that asks to be connected; None: somebody wants to sign in."""
    again: bool = False
    """Somebody who is signed in shall prove anew who they are."""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A proved identity that belongs to no account yet; its owner must say to which. Sealed in a cookie like an attempt."""

    id: str
    identity: UpstreamIdentity
    continue_to: str | None
    remember: bool
    expires_at: int


class Answer(NamedTuple):
    """What the provider sent back by way of the browser."""

    code: str
    issuer: str | None
    """The parameter `iss` (RFC 9207)."""


class NeedsOwner(NamedTuple):
    """The identity holds, but only its owner can say which account it belongs to."""

    identity: UpstreamIdentity


class Provider(Protocol):
    """Somewhere to sign in at."""

    @property
    def name(self) -> str:
        """A word for URLs and links: `github`."""
        ...

    @property
    def label(self) -> str:
        """What people call it."""
        ...

    @property
    def leads_to(self) -> str:
        """The origin that the browser is most likely sent to."""
        ...

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where the browser is sent.

        Raises:
            UpstreamAway: the provider's configuration cannot be had.
        """
        ...

    async def identify(self, answer: Answer, attempt: Attempt, redirect_uri: str) -> UpstreamIdentity:
        """Exchanges the code, and says who came.

        Raises:
            UpstreamRefused: something does not hold.
            UpstreamAway: the provider does not answer.
        """
        ...
