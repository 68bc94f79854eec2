"""From a finished (or half-finished) sign-in to its JSON answer. Every route that ends in a session answers by these.

A client either gets the session's key as `refreshToken`, or, if it is a page that keeps its session in cookies, the cookies and
no key: what is in a script's reach can be stolen by a script.
"""

from __future__ import annotations

from hapta.http.api import Reply
from hapta.identity.browser import BrowserSessions, Headers
from hapta.identity.models import Person, SecondFactorNeeded, SignedIn
from hapta.identity.v1.schemas import ProfileAnswer, SignInAnswer, UserAnswer
from hapta.kit.clock import iso_ms

NO_STORE: Headers = ((b"cache-control", b"no-store"),)


def sign_in_reply(
    browser: BrowserSessions,
    outcome: SignedIn | SecondFactorNeeded,
    *,
    cookies: bool,
    remember: bool = True,
    device: str | None = None,
    message: str = "Signed in",
) -> Reply:
    """The answer to a proof of identity.

    Args:
        cookies: the session travels in cookies; the request must have passed the guards against foreign pages.
        device: a cookie for the throttle to know this browser by.
    """
    if isinstance(outcome, SecondFactorNeeded):
        body = SignInAnswer(mfa_required=True, mfa_token=outcome.token, methods=list(outcome.methods))
        return Reply(200, body, NO_STORE, message="A second factor is needed")
    body = SignInAnswer(
        mfa_required=False,
        access_token=outcome.access_token,
        expires_in=outcome.expires_in_seconds,
        refresh_token=None if cookies else outcome.refresh_token,
        session_id=outcome.session_id,
        user=user_answer(outcome.person),
    )
    headers = browser.signed_in_headers(outcome, remember, device=device) if cookies else ()
    return Reply(200, body, (*NO_STORE, *headers), message=message)


def user_answer(person: Person) -> UserAnswer:
    """A person as they may see themselves."""
    profile = person.profile
    return UserAnswer(
        id=person.user_id,
        email=person.email,
        email_verified=person.email_verified,
        phone=person.phone,
        phone_verified=person.phone_verified,
        roles=list(person.roles),
        has_password=person.has_password,
        profile=ProfileAnswer(**{name: getattr(profile, name) for name in ProfileAnswer.__struct_fields__}),
        created_at=iso_ms(person.created_at),
    )
