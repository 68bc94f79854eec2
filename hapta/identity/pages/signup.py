"""The pages of a new account: sign-up, and the code that verifies an address or a number."""

from __future__ import annotations

from typing import Any

from hapta.http.api import Reply, Request
from hapta.http.forms import Form
from hapta.http.pages import redirect
from hapta.identity.errors import RegistrationDisabled
from hapta.identity.pages.kit import PageKit, trouble
from hapta.identity.pages.ports import OneTimeCodes
from hapta.identity.policy import ACCOUNT_PATH, LOGIN_PATH, login_path, origin, safe_path, with_continue
from hapta.kit.access import Caller
from hapta.kit.errors import Conflict, Forbidden, Invalid, TooMany, Unauthenticated

REGISTER_PATH = "/identity/register"
VERIFY_PATH = "/identity/verify"
MAX_TYPED = 1024


class SignUpPages:
    """Handlers.

    Args:
        codes: verifies addresses and numbers; None: nothing is verified.
    """

    def __init__(self, kit: PageKit, *, codes: OneTimeCodes | None = None) -> None:
        self._kit = kit
        self._codes = codes

    async def register_page(self, request: Request) -> Reply:
        query = Form.parse(request.query_string)
        caller = await self._kit.browser.current(request)
        continue_to = safe_path(query.one("continue"))
        if caller is not None:
            return redirect(continue_to or ACCOUNT_PATH)
        return self._form(request, caller, continue_to, email="", name="")

    async def register(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        continue_to = safe_path(body.one("continue"))
        email, name = (body.one("email") or "")[:MAX_TYPED], (body.one("name") or "").strip()[:256]
        password = body.one("password") or ""
        try:
            await self._kit.accounts.register(email, password[: MAX_TYPED + 1], origin(request), name=name)
        except (RegistrationDisabled, Invalid, TooMany) as error:
            return self._form(request, caller, continue_to, email=email, name=name, **trouble(error))
        if not self._kit.accounts.verifies_email:
            return redirect(with_continue("/identity/registered", continue_to))
        note = self._kit.browser.flow_headers({"verify": email})
        return redirect(with_continue(VERIFY_PATH, continue_to), note)

    async def registered_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        continue_to = safe_path(Form.parse(request.query_string).one("continue"))
        return self._kit.show(
            request,
            "done.html",
            caller,
            title="Check your mail",
            text="If this address can be used, your account is ready, or a message is on its way to it.",
            link=(with_continue(LOGIN_PATH, continue_to), "Sign in"),
        )

    def _form(self, request: Request, caller: Caller | None, continue_to: str | None, **more: Any) -> Reply:
        return self._kit.show(
            request,
            "register.html",
            caller,
            continue_to=continue_to,
            login_path=with_continue(LOGIN_PATH, continue_to),
            **more,
        )

    # --- codes ---

    async def verify_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        query = Form.parse(request.query_string)
        return await self._verify(request, caller, safe_path(query.one("continue")), sent="sent" in query)

    async def verify(self, request: Request, body: Form) -> Reply:
        """The code of the account's own address, of a number that is being added, or of an address that has just signed up."""
        caller = await self._kit.checked(request, body)
        note, whence, code = self._kit.browser.flow(request), origin(request), body.one("code") or ""
        continue_to = safe_path(body.one("continue"))
        phone, email = note.get("phone"), note.get("verify")
        try:
            if caller is not None and self._codes is not None:
                if phone:
                    await self._codes.confirm_verify_phone(caller, phone, code, whence)
                else:
                    await self._codes.confirm_verify_email(caller, code, whence)
            elif email:
                await self._kit.accounts.verify_new_email(email, code, whence)
            else:
                return redirect(login_path(VERIFY_PATH))
        except (Unauthenticated, Forbidden, Invalid, Conflict, TooMany) as error:
            return await self._verify(request, caller, continue_to, **trouble(error))
        to = continue_to or ACCOUNT_PATH
        if caller is None:
            to = f"{with_continue(LOGIN_PATH, continue_to)}{'&' if continue_to else '?'}verified=1"
        return redirect(to, self._kit.browser.flow_headers(None))

    async def send(self, request: Request, body: Form) -> Reply:
        """Another code, for somebody who is signed in."""
        caller = await self._kit.checked(request, body)
        if caller is None or self._codes is None:
            return redirect(login_path(VERIFY_PATH))
        continue_to, phone = safe_path(body.one("continue")), self._kit.browser.flow(request).get("phone")
        try:
            if phone and "email" not in body:
                await self._codes.start_verify_phone(caller, phone, origin(request))
            else:
                await self._codes.start_verify_email(caller, origin(request))
        except (Invalid, TooMany) as error:
            return await self._verify(request, caller, continue_to, **trouble(error))
        path = with_continue(VERIFY_PATH, continue_to)
        headers = self._kit.browser.flow_headers(None) if "email" in body else ()
        return redirect(f"{path}{'&' if '?' in path else '?'}sent=1", headers)

    async def _verify(
        self, request: Request, caller: Caller | None, continue_to: str | None, *, sent: bool = False, **more: Any
    ) -> Reply:
        note = self._kit.browser.flow(request)
        if caller is None:
            destination = note.get("verify")
            if not destination:
                return redirect(login_path(VERIFY_PATH))
        else:
            person = await self._kit.accounts.me(caller.user_id)
            destination = note.get("phone") or person.email
            if destination is None or (person.email_verified and not note.get("phone")):
                return redirect(continue_to or ACCOUNT_PATH)
        return self._kit.show(
            request,
            "verify.html",
            caller,
            destination=destination,
            continue_to=continue_to,
            can_resend=caller is not None,
            sent=sent,
            login_path=with_continue(LOGIN_PATH, continue_to),
            **more,
        )
