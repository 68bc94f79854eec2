"""What the authorization endpoint works with: the validated request, the flow that carries it, and what comes next.

A flow is all there is between two requests of a browser: it travels sealed in a parameter and is kept nowhere, so any worker may
be killed in the middle.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from hapta.identity.people import Person
from hapta.kit.errors import HaptaError, Invalid
from hapta.oauth.errors import OAuthError
from hapta.oauth.models import Client

ResponseMode = Literal["query", "form_post"]
Prompt = Literal["none", "login", "consent", "select_account"]


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An authorization request in which everything has been checked against its client."""

    client_id: str
    redirect_uri: str
    redirect_uri_sent: bool
    response_mode: ResponseMode = "query"
    state: str | None = None
    scopes: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    code_challenge: str
    nonce: str | None = None
    prompts: tuple[Prompt, ...] = ()
    max_age: int | None = None
    hinted_subject: str | None = None
    """The `sub` that the id_token_hint names, in the client's own words."""
    acr_values: tuple[str, ...] = ()
    """Those that we know; others were ignored."""
    dpop_jkt: str | None = None
    login_hint: str | None = None


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request on its way through login and consent."""

    asked: Asked
    started_at: int
    """Unix milliseconds. A login since then proves what `prompt=login` and `max_age` ask for."""
    pushed: str | None = None
    """The reference of a pushed request, to be used up together with the code."""
    account: str | None = None
    """The user id that was chosen for `prompt=select_account`."""


class Target(NamedTuple):
    """Where answers go: a redirect URI that is known to be the client's."""

    redirect_uri: str
    response_mode: ResponseMode
    state: str | None


def target_of(asked: Asked) -> Target:
    """Where the answer to a request goes."""
    return Target(asked.redirect_uri, asked.response_mode, asked.state)


class Unredirectable(Invalid):
    """The client or the redirect URI is not known to be good: the person is told, and the browser goes nowhere.

    Args:
        error: the fault, in the words of the standards.
    """

    def __init__(self, error: OAuthError) -> None:
        super().__init__(f"{error.message}. You were not sent back to the app, as that might not be safe.")
        self.error = error


class Refused(HaptaError):
    """The request is at fault, and its client is told by a redirect.

    Args:
        error: the fault, in the words of the standards.
    """

    def __init__(self, target: Target, error: HaptaError) -> None:
        super().__init__(error.message)
        self.target = target
        self.error = error


# --- what comes next ---


class Login(NamedTuple):
    """The person must sign in; with `again` although there is a session."""

    flow: Flow
    again: bool


class ChooseAccount(NamedTuple):
    """The person must say which account it is."""

    flow: Flow
    client: Client
    person: Person


class AskConsent(NamedTuple):
    """The person must decide."""

    flow: Flow
    client: Client
    person: Person


class Answer(NamedTuple):
    """The client gets its answer: a code, or an error."""

    target: Target
    parameters: tuple[tuple[str, str], ...]


Next = Login | ChooseAccount | AskConsent | Answer
