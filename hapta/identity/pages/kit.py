"""What all pages share: rendering with a token against foreign pages, faults of fields, and the end of a sign-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hapta.http.api import Reply
from hapta.http.errors import headers as error_headers
from hapta.http.forms import Form
from hapta.http.pages import Pages, redirect, waiting_text
from hapta.http.requests import Request
from hapta.identity.browser import BrowserSessions, Headers
from hapta.identity.identifiers import email_key, parse_login
from hapta.identity.models import Person, SecondFactorNeeded
from hapta.identity.pages.ports import Outcome
from hapta.identity.policy import ACCOUNT_PATH, origin, safe_path, with_continue
from hapta.identity.v1.service import SelfService
from hapta.kit.access import Caller
from hapta.kit.errors import HaptaError, TooMany, Unavailable, ValidationFailed

SECOND_PATH = "/identity/login/second"
ON_PATH = "/identity/on"


class PageKit:
    """Tools of the handlers.

    Args:
        pages: renders; its folders include `("hapta.identity", "templates")`.
    """

    def __init__(self, pages: Pages, browser: BrowserSessions, accounts: SelfService) -> None:
        self.pages = pages
        self.browser = browser
        self.accounts = accounts

    def show(
        self,
        request: Request,
        template: str,
        caller: Caller | None,
        *,
        status: int = 200,
        headers: Headers = (),
        form_action: tuple[str, ...] = (),
        script: str | None = None,
        **context: Any,
    ) -> Reply:
        """A page whose forms carry the token of this session or pre-session."""
        token, cookies = self.browser.csrf_token(request, caller)
        context = {"notice": None, "caller": caller, **context}
        context["faults"] = _Faults(context.get("faults") or {})
        return self.pages.reply(
            template,
            status=status,
            headers=(*cookies, *headers),
            form_action=form_action,
            script=script,
            csrf=token,
            **context,
        )

    async def checked(self, request: Request, form: Form) -> Caller | None:
        """Who posts this form, once it is sure that it came from a page of ours.

        Raises:
            CsrfFailed: it may not have.
        """
        caller = await self.browser.current(request)
        self.browser.check_form(request, form, caller)
        return caller

    async def finish(
        self,
        request: Request,
        outcome: Outcome,
        *,
        before: Caller | None,
        continue_to: str | None,
        remember: bool,
        identifier: str | None,
    ) -> Reply:
        """Where any proof of identity on a page leads: on to where the person wanted to go, or to the second factor.

        Args:
            before: the session that the browser had until now; it ends, since its cookie is overwritten.
            continue_to: a path of this server; anything else leads to the account.
            identifier: what was typed as a name; the throttle will know this browser by it, if it is the person's own. After a
                second factor it comes out of a cookie that the browser may have changed.
        """
        if isinstance(outcome, SecondFactorNeeded):
            note = {
                "mfa": outcome.token,
                "methods": " ".join(outcome.methods),
                "remember": "1" if remember else "",
                "identifier": identifier or "",
            }
            return redirect(with_continue(SECOND_PATH, continue_to), self.browser.flow_headers(note))
        if before is not None and before.session_id != outcome.session_id:
            await self.accounts.logout(before, origin(request))
        own = identifier is not None and _names(outcome.person, identifier)
        device = self.accounts.device_cookie(identifier) if own and identifier is not None else None
        headers = self.browser.signed_in_headers(outcome, remember, device=device)
        return redirect(onward(safe_path(continue_to) or ACCOUNT_PATH), (*headers, *self.browser.flow_headers(None)))

    async def on_page(self, request: Request) -> Reply:
        """Leads on to a path of this server, as a way of its own (see `onward`). It needs no script."""
        to = safe_path(Form.parse(request.query_string).one("continue")) or ACCOUNT_PATH
        caller = await self.browser.current(request)
        refresh = (b"refresh", f"0; url={to}".encode("ascii"))
        return self.show(request, "on.html", caller, headers=(refresh,), url=to)


def _names(person: Person, identifier: str) -> bool:
    """Whether somebody who types this means this person."""
    try:
        key = parse_login(identifier).key
    except ValidationFailed:
        return False
    return key in (person.phone, None if person.email is None else email_key(person.email))


class _Faults(dict[str, str | None]):
    """Faults by field, for templates: a field that is not named has none."""

    def __missing__(self, field: str) -> None:
        return None


def onward(path: str) -> str:
    """Where a form leads whose way goes on to `path`.

    Browsers hold the whole way of a form, redirects included, against `form-action` of the page that it stood on (CSP Level 3,
    section 6.4.2). What leaves the pages of identity may end at an app, whose origin no login page can name: a page between
    them begins a way of its own.
    """
    return path if path.startswith("/identity/") else with_continue(ON_PATH, path)


def faults_of(error: HaptaError) -> Mapping[str, str]:
    """What is wrong, by field; faults of no field are left to `notice_of`."""
    if not isinstance(error, ValidationFailed):
        return {}
    found: dict[str, str] = {}
    for issue in error.issues:
        if issue.path:
            found.setdefault(str(issue.path[-1]), issue.message)
    return found


def notice_of(error: HaptaError) -> str:
    """What is wrong, in a sentence above the form."""
    if isinstance(error, ValidationFailed):
        return "Please look at the fields below."
    if isinstance(error, TooMany | Unavailable):
        return f"{error.message}. You can try again in {waiting_text(error.retry_after_seconds)}."
    return f"{error.message}."


def trouble(error: HaptaError, fields: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The status, headers and context of a form that is shown again because of an error.

    Args:
        fields: what fields of the error are called in this form.
    """
    status = 429 if isinstance(error, TooMany) else 503 if isinstance(error, Unavailable) else 400
    names = fields or {}
    return {
        "status": status,
        # A challenge belongs to tokens; a form is simply shown again.
        "headers": tuple(header for header in error_headers(error) if header[0] != b"www-authenticate"),
        "faults": {names.get(field, field): text for field, text in faults_of(error).items()},
        "notice": notice_of(error),
    }
