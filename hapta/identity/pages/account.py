"""The page of one's own account: profile, address, password, sessions, and whatever other nouns bring as sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hapta.http.api import Reply, Request
from hapta.http.forms import Form
from hapta.http.pages import redirect
from hapta.identity.errors import SessionNotFound, WrongPassword
from hapta.identity.factors.errors import StepUpRequired
from hapta.identity.pages.devices import device_name
from hapta.identity.pages.kit import PageKit, trouble
from hapta.identity.pages.ports import AccountSection, ConnectedApps, OneTimeCodes, RecentActivity, Recovery
from hapta.identity.policy import ACCOUNT_PATH, origin
from hapta.kit.access import Caller
from hapta.kit.errors import Conflict, Invalid, InvalidToken, TooMany

PASSWORD_PATH = "/identity/account/password"  # noqa: S105 - a path
EMAIL_PATH = "/identity/account/email"
PHONE_PATH = "/identity/account/phone"
MAX_TYPED = 1024
SAID: dict[str, str] = {
    "profile": "Your name is saved.",
    "password": "Your password is changed, and every other session has ended.",
    "totp_removed": "The authenticator app is removed. Your password alone signs you in now.",
    "passkey": "The passkey is added.",
    "passkey_renamed": "The passkey has its new name.",
    "passkey_removed": "The passkey is removed here. You may delete it on your device, too.",
    "session": "The session has ended.",
    "sessions": "All other sessions have ended.",
    "app": "The app may do nothing any more.",
    "email": "If the new address can be used, a link to confirm it is on its way there.",
}


class AccountPages:
    """Handlers; each sends whoever is not signed in to the login page.

    Args:
        sections: further parts, in their order.
        apps: third-party apps with access; None: not shown.
        activity: what happened to the account; None: not shown.
        codes: verifies address and number; None: not offered.
        recovery: changes the address; None: not offered.
    """

    def __init__(
        self,
        kit: PageKit,
        *,
        sections: Sequence[AccountSection] = (),
        apps: ConnectedApps | None = None,
        activity: RecentActivity | None = None,
        codes: OneTimeCodes | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self._kit = kit
        self._sections = list(sections)
        self._apps = apps
        self._activity = activity
        self._codes = codes
        self._recovery = recovery

    @property
    def shows_apps(self) -> bool:
        """Whether apps are listed."""
        return self._apps is not None

    @property
    def adds_phones(self) -> bool:
        """Whether a number can be added."""
        return self._codes is not None

    @property
    def changes_email(self) -> bool:
        """Whether the address can be changed."""
        return self._recovery is not None

    async def page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        if caller is None:
            return self._login(ACCOUNT_PATH)
        return await self._account(request, caller, SAID.get(Form.parse(request.query_string).one("done") or ""))

    async def save_profile(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None:
            return self._login(ACCOUNT_PATH)
        present = await self._kit.accounts.me(caller.user_id)
        name = (body.one("name") or "").strip()[:256] or None
        await self._kit.accounts.set_profile(
            caller, msgspec.structs.replace(present.profile, name=name), origin(request)
        )
        return _done("profile")

    async def end_session(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None:
            return self._login(ACCOUNT_PATH)
        try:
            await self._kit.accounts.end_session(caller, (body.one("session") or "")[:64], origin(request))
        except SessionNotFound:
            return _done("session")  # it has ended, which is what was asked for
        return _done("session")

    async def end_others(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None:
            return self._login(ACCOUNT_PATH)
        await self._kit.accounts.end_other_sessions(caller, origin(request))
        return _done("sessions")

    async def withdraw_app(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None or self._apps is None:
            return self._login(ACCOUNT_PATH)
        await self._apps.withdraw(caller.user_id, (body.one("client") or "")[:2048], origin(request))
        return _done("app")

    async def _account(self, request: Request, caller: Caller, said: str | None) -> Reply:
        try:
            person = await self._kit.accounts.me(caller.user_id)
        except InvalidToken:
            return redirect(ACCOUNT_PATH, self._kit.browser.signed_out_headers())
        sessions = [
            {"session": session, "device": session.device_label or device_name(session.user_agent)}
            for session in await self._kit.accounts.list_sessions(caller)
        ]
        return self._kit.show(
            request,
            "account.html",
            caller,
            person=person,
            said=said,
            sessions=sessions,
            sections=[(section.template, await section.load(caller)) for section in self._sections],
            apps=None if self._apps is None else await self._apps.list_apps(caller.user_id),
            activity=None if self._activity is None else await self._activity(caller.user_id),
            can_verify=self._codes is not None,
            can_change_email=self._recovery is not None,
        )

    # --- password ---

    async def password_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        if caller is None:
            return self._login(PASSWORD_PATH)
        return await self._password(request, caller)

    async def change_password(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None:
            return self._login(PASSWORD_PATH)
        browser = self._kit.browser
        current, new = body.one("password"), (body.one("new_password") or "")[: MAX_TYPED + 1]
        try:
            rolled = await self._kit.accounts.change_password(
                caller,
                None if current is None else current[:MAX_TYPED],
                new,
                origin(request),
                key=browser.session_key(request),
            )
        except StepUpRequired:
            return browser.login_redirect(PASSWORD_PATH, reauthenticate=True)
        except WrongPassword as error:
            context = trouble(error)
            return await self._password(
                request, caller, **(context | {"faults": {"password": f"{error.message}."}, "notice": None})
            )
        except (Invalid, TooMany) as error:
            return await self._password(request, caller, **trouble(error, {"newPassword": "new_password"}))
        return _done("password", browser.signed_in_headers(rolled, browser.remembered(request)))

    async def _password(self, request: Request, caller: Caller, **more: Any) -> Reply:
        person = await self._kit.accounts.me(caller.user_id)
        ask = person.has_password and not self._kit.accounts.is_fresh(caller)
        return self._kit.show(request, "password.html", caller, person=person, ask_current=ask, **more)

    # --- address and number ---

    async def email_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        if caller is None:
            return self._login(EMAIL_PATH)
        if not self._kit.accounts.is_fresh(caller):
            return self._kit.browser.login_redirect(EMAIL_PATH, reauthenticate=True)
        person = await self._kit.accounts.me(caller.user_id)
        return self._kit.show(request, "email.html", caller, person=person, email="")

    async def change_email(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None or self._recovery is None:
            return self._login(EMAIL_PATH)
        email = (body.one("email") or "")[:MAX_TYPED]
        try:
            await self._recovery.change_email(caller, email, origin(request))
        except StepUpRequired:
            return self._kit.browser.login_redirect(EMAIL_PATH, reauthenticate=True)
        except (Invalid, TooMany) as error:
            person = await self._kit.accounts.me(caller.user_id)
            return self._kit.show(request, "email.html", caller, person=person, email=email, **trouble(error))
        return _done("email")

    async def phone_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        if caller is None:
            return self._login(PHONE_PATH)
        person = await self._kit.accounts.me(caller.user_id)
        return self._kit.show(request, "phone.html", caller, person=person, phone="")

    async def add_phone(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        if caller is None or self._codes is None:
            return self._login(PHONE_PATH)
        phone = (body.one("phone") or "")[:64]
        try:
            await self._codes.start_verify_phone(caller, phone, origin(request))
        except StepUpRequired:
            return self._kit.browser.login_redirect(PHONE_PATH, reauthenticate=True)
        except (Invalid, Conflict, TooMany) as error:
            person = await self._kit.accounts.me(caller.user_id)
            return self._kit.show(request, "phone.html", caller, person=person, phone=phone, **trouble(error))
        return redirect("/identity/verify?sent=1", self._kit.browser.flow_headers({"phone": phone}))

    def _login(self, path: str) -> Reply:
        return self._kit.browser.login_redirect(path)


def _done(what: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    return redirect(f"{ACCOUNT_PATH}?done={what}", headers)
