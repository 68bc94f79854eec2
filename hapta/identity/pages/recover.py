"""The pages behind links in mails: a forgotten password, a new address, its undo. Opening one changes nothing; its button does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from hapta.http.api import Reply, Request
from hapta.http.forms import Form
from hapta.http.pages import redirect
from hapta.identity.errors import BadLink
from hapta.identity.pages.kit import PageKit, trouble
from hapta.identity.pages.ports import Recovery
from hapta.identity.policy import LOGIN_PATH, origin
from hapta.kit.access import Caller
from hapta.kit.errors import Conflict, Invalid, TooMany

FORGOT_PATH = "/identity/forgot"
FORGOT_SENT_PATH = "/identity/forgot/sent"
RESET_PATH = "/identity/reset"
RESET_DONE_PATH = "/identity/reset/done"
CONFIRM_PATH = "/identity/email/confirm"
UNDO_PATH = "/identity/email/undo"
MAX_TYPED = 1024


class RecoverPages:
    """Handlers.

    Args:
        recovery: does what the pages say.
    """

    def __init__(self, kit: PageKit, recovery: Recovery) -> None:
        self._kit = kit
        self._recovery = recovery

    # --- forgotten password ---

    async def forgot_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        return self._kit.show(request, "forgot.html", caller, identifier="")

    async def forgot(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        identifier = (body.one("identifier") or "")[:MAX_TYPED]
        try:
            await self._recovery.forgot(identifier, origin(request))
        except (Invalid, TooMany) as error:
            return self._kit.show(request, "forgot.html", caller, identifier=identifier, **trouble(error))
        return redirect(FORGOT_SENT_PATH)

    async def forgot_sent_page(self, request: Request) -> Reply:
        return await self._done(
            request,
            "Check your mail",
            "If there is an account with this name, a link to choose a new password is on its way. It counts for half an hour.",
        )

    async def reset_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        token = _token(Form.parse(request.query_string))
        if not await self._recovery.is_live("reset", token):
            return self._dead(request, caller)
        return self._kit.show(request, "reset.html", caller, token=token)

    async def reset(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        token, password = _token(body), (body.one("password") or "")[: MAX_TYPED + 1]
        try:
            await self._recovery.reset(token, password, origin(request))
        except BadLink:
            return self._dead(request, caller)
        except (Invalid, TooMany) as error:
            context = trouble(error, {"newPassword": "password"})
            return self._kit.show(request, "reset.html", caller, token=token, **context)
        return redirect(RESET_DONE_PATH, self._kit.browser.signed_out_headers())

    async def reset_done_page(self, request: Request) -> Reply:
        return await self._done(
            request,
            "Your password is changed",
            "You have been signed out everywhere. Sign in with the new password.",
            (LOGIN_PATH, "Sign in"),
        )

    # --- another address ---

    async def confirm_email_page(self, request: Request) -> Reply:
        return await self._ask(request, "email_change")

    async def confirm_email(self, request: Request, body: Form) -> Reply:
        return await self._act(request, body, self._recovery.confirm_email, "confirmed")

    async def undo_email_page(self, request: Request) -> Reply:
        return await self._ask(request, "email_undo")

    async def undo_email(self, request: Request, body: Form) -> Reply:
        return await self._act(request, body, self._recovery.undo_email, "undone")

    async def email_done_page(self, request: Request) -> Reply:
        if "undone" in Form.parse(request.query_string):
            return await self._done(
                request,
                "The change is undone",
                "Your account has its old address again, and everybody is signed out. A link to choose a new password is on its"
                " way to it.",
            )
        return await self._done(
            request, "Your address is changed", "It is verified, and messages go there now.", (LOGIN_PATH, "Continue")
        )

    async def _ask(self, request: Request, purpose: Literal["email_change", "email_undo"]) -> Reply:
        caller = await self._kit.browser.current(request)
        token = _token(Form.parse(request.query_string))
        if not await self._recovery.is_live(purpose, token):
            return self._dead(request, caller)
        return self._kit.show(request, "email_link.html", caller, token=token, undo=purpose == "email_undo")

    async def _act(
        self, request: Request, body: Form, act: Callable[[str, Any], Awaitable[object]], word: str
    ) -> Reply:
        caller = await self._kit.checked(request, body)
        try:
            await act(_token(body), origin(request))
        except (BadLink, Conflict):
            return self._dead(request, caller)
        return redirect(f"/identity/email/done?{word}=1")

    # --- parts ---

    async def _done(self, request: Request, title: str, text: str, link: tuple[str, str] | None = None) -> Reply:
        caller = await self._kit.browser.current(request)
        return self._kit.show(request, "done.html", caller, title=title, text=text, link=link)

    def _dead(self, request: Request, caller: Caller | None) -> Reply:
        return self._kit.show(
            request,
            "done.html",
            caller,
            status=400,
            title="This link has ended",
            text="It was used already, is too old, or something has changed since it was sent. You can ask for a new one.",
            link=(FORGOT_PATH, "Forgot your password?"),
        )


def _token(form: Form) -> str:
    return (form.one("token") or "")[:256]
