"""What the pages ask of others. A page offers only what was handed in: without a service its links and buttons are not there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from hapta.http.forms import Form
from hapta.identity.models import Origin, Person, SecondFactorNeeded, SignedIn
from hapta.kit.access import Caller, UserId

Outcome = SignedIn | SecondFactorNeeded


class CompletesSignIn(Protocol):
    """`SignInService`, as far as `CodeSignIn` is handed it."""

    async def complete(self, person: Person, origin: Origin, *, amr: tuple[str, ...], provider: str) -> Outcome: ...


class OneTimeCodes(Protocol):
    """Codes by mail and text message; `OtpService` implements it."""

    async def start_login(self, identifier: str, origin: Origin, locale: str = "en") -> None: ...
    async def confirm_login(self, identifier: str, code: str, origin: Origin, signin: CompletesSignIn) -> Outcome: ...
    async def start_verify_email(self, caller: Caller, origin: Origin, locale: str = "en") -> None: ...
    async def confirm_verify_email(self, caller: Caller, code: str, origin: Origin) -> Person: ...
    async def start_verify_phone(self, caller: Caller, phone: str, origin: Origin, locale: str = "en") -> None: ...
    async def confirm_verify_phone(self, caller: Caller, phone: str, code: str, origin: Origin) -> Person: ...


class Recovery(Protocol):
    """Links by mail; `RecoveryService` implements it."""

    async def forgot(self, identifier: str, origin: Origin, locale: str = "en") -> None: ...
    async def is_live(self, purpose: Literal["reset", "email_change", "email_undo"], token: str) -> bool: ...
    async def reset(self, token: str, password: str, origin: Origin) -> None: ...
    async def change_email(self, caller: Caller, email: str, origin: Origin, locale: str = "en") -> None: ...
    async def confirm_email(self, token: str, origin: Origin) -> Person: ...
    async def undo_email(self, token: str, origin: Origin) -> Person: ...


@dataclass(frozen=True, slots=True)
class ProviderButton:
    """Another place to sign in at. The button POSTs to a route of the provider's feature, which sends the browser on.

    Args:
        label: what people call it: `GitHub`.
        action: our path that begins the sign-in; it gets `csrf`, `continue` and `remember`.
        leads_to: the provider's origin, for the policy of the page.
    """

    label: str
    action: str
    leads_to: str


@dataclass(frozen=True, slots=True)
class SecondStep:
    """One way to give the second proof.

    Args:
        name: as in `SecondFactorNeeded.methods`.
        label: of the link to it: `Code from your app`.
        text: what to do, in a sentence or two.
        finish: judges the posted form and ends the sign-in; gets the token of the half-finished one.
        send: sends a code; None: there is nothing to send.
        template: what stands in the form; the default is one field for a code, named `code`.
        numeric: whether that code is digits.
        prepare: further context for the template (a challenge), by that token.
        script: JavaScript of that template.
    """

    name: str
    label: str
    text: str
    finish: Callable[[str, Form, Origin], Awaitable[SignedIn]]
    send: Callable[[str, Origin], Awaitable[None]] | None = None
    template: str = "second_code.html"
    numeric: bool = True
    prepare: Callable[[str], Awaitable[Mapping[str, Any]]] | None = None
    script: str | None = None


@dataclass(frozen=True, slots=True)
class LoginExtra:
    """Something more on the login page (passkeys): a template below the form, its context and its script."""

    template: str
    prepare: Callable[[], Awaitable[Mapping[str, Any]]]
    script: str | None = None


@dataclass(frozen=True, slots=True)
class AccountSection:
    """A part of the account page that another noun brings: second factors, linked providers.

    Args:
        template: gets `section` (what `load` gave), `csrf`, `caller` and `person`; holds one `<section class="card">`.
    """

    template: str
    load: Callable[[Caller], Awaitable[Mapping[str, Any]]]


class AppAccess(NamedTuple):
    """A third-party app that may do something for the person."""

    client_id: str
    name: str
    may: Sequence[str]
    """What it may, in words."""
    since: int
    """Unix milliseconds."""


class ConnectedApps(Protocol):
    """The apps of a person."""

    async def list_apps(self, user_id: UserId) -> Sequence[AppAccess]: ...
    async def withdraw(self, user_id: UserId, client_id: str, origin: Origin) -> object: ...


class Activity(NamedTuple):
    """Something that happened to the account."""

    at: int
    """Unix milliseconds."""
    text: str
    where: str | None = None
    alarming: bool = False


RecentActivity = Callable[[UserId], Awaitable[Sequence[Activity]]]
