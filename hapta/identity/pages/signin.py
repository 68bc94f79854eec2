"""The pages that lead in and out: password, second factor, one-time code, logout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hapta.http.api import Reply, Request
from hapta.http.forms import Form
from hapta.http.pages import redirect
from hapta.identity.errors import InvalidCredentials, WrongPassword
from hapta.identity.models import Person, SignedIn
from hapta.identity.pages.kit import SECOND_PATH, PageKit, trouble
from hapta.identity.pages.ports import CompletesSignIn, LoginExtra, OneTimeCodes, ProviderButton, SecondStep
from hapta.identity.policy import ACCOUNT_PATH, LOGIN_PATH, login_path, origin, safe_path, with_continue
from hapta.kit.access import Caller
from hapta.kit.errors import Forbidden, Invalid, InvalidToken, TooMany, Unauthenticated

CODE_PATH = "/identity/login/code"
CODE_ENTER_PATH = "/identity/login/code/enter"
LOGOUT_PATH = "/identity/logout"
NO_MATCH = "That did not match an account. Check what you typed and try again."
MAX_TYPED = 1024
_MISSING = (("identifier", "Enter your mail address or phone number"), ("password", "Enter your password"))


class SignInPages:
    """Handlers.

    Args:
        codes: sign-in by a mailed or texted code; None: not offered.
        signin: what a right code opens; needed with `codes`.
        providers: other places to sign in at.
        steps: ways to give a second proof, the one to show first leading.
        extras: more for the login page.
        can_recover: whether a forgotten password can be reset.
    """

    def __init__(
        self,
        kit: PageKit,
        *,
        codes: OneTimeCodes | None = None,
        signin: CompletesSignIn | None = None,
        providers: Sequence[ProviderButton] = (),
        steps: Sequence[SecondStep] = (),
        extras: Sequence[LoginExtra] = (),
        can_recover: bool = False,
    ) -> None:
        self._kit = kit
        self._codes = codes if signin is not None else None
        self._signin = signin
        self._providers = list(providers)
        self._steps = {step.name: step for step in steps}
        self._extras = list(extras)
        self._can_recover = can_recover

    @property
    def offers_codes(self) -> bool:
        """Whether one can sign in by a code."""
        return self._codes is not None

    # --- password ---

    async def login_page(self, request: Request) -> Reply:
        query = Form.parse(request.query_string)
        caller = await self._kit.browser.current(request)
        continue_to = safe_path(query.one("continue"))
        again = caller is not None and "again" in query
        if caller is not None and not again:
            return redirect(continue_to or ACCOUNT_PATH)
        return await self._login(
            request,
            caller,
            continue_to,
            again=again and "switch" not in query,
            over="over" in query,
            identifier=query.one("hint") or "",
        )

    async def login(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        continue_to = safe_path(body.one("continue"))
        identifier, password = body.one("identifier") or "", body.one("password") or ""
        again = caller is not None and "again" in body
        faults = {name: text for name, text in _MISSING if name not in body and not (again and name == "identifier")}
        shown: dict[str, Any] = {"again": again, "identifier": identifier, "remember": "remember" in body}
        if faults:
            return await self._login(request, caller, continue_to, faults=faults, status=400, **shown)
        accounts, whence = self._kit.accounts, origin(request)
        try:
            if again and caller is not None:
                key = self._kit.browser.session_key(request)
                rolled = await accounts.step_up(caller, password[:MAX_TYPED], whence, key=key)
                return await self._confirmed(request, rolled, continue_to)
            known = self._kit.browser.device_cookie(request)
            outcome = await accounts.login(identifier[:MAX_TYPED], password[:MAX_TYPED], whence, device_cookie=known)
        except (InvalidCredentials, Invalid):
            return await self._login(request, caller, continue_to, notice=NO_MATCH, status=400, **shown)
        except (WrongPassword, TooMany) as error:
            return await self._login(request, caller, continue_to, **shown, **trouble(error))
        return await self._kit.finish(
            request,
            outcome,
            before=caller,
            continue_to=continue_to,
            remember="remember" in body,
            identifier=identifier[:MAX_TYPED],
        )

    async def _confirmed(self, request: Request, rolled: SignedIn, continue_to: str | None) -> Reply:
        browser = self._kit.browser
        headers = browser.signed_in_headers(rolled, browser.remembered(request))
        return redirect(continue_to or ACCOUNT_PATH, headers)

    async def _login(
        self,
        request: Request,
        caller: Caller | None,
        continue_to: str | None,
        *,
        again: bool,
        identifier: str = "",
        remember: bool = True,
        over: bool = False,
        notice: str | None = None,
        **more: Any,
    ) -> Reply:
        person: Person | None = None
        if again and caller is not None:
            person = await self._kit.accounts.me(caller.user_id)
        extras = [(extra.template, await extra.prepare()) for extra in self._extras]
        scripts = [extra.script for extra in self._extras if extra.script]
        return self._kit.show(
            request,
            "login.html",
            caller,
            form_action=tuple(button.leads_to for button in self._providers),
            script="\n".join(scripts) or None,
            again=again,
            person=person,
            identifier=identifier,
            remember=remember,
            continue_to=continue_to,
            notice="That took too long. Please start again." if over else notice,
            providers=self._providers,
            extras=extras,
            code_path=with_continue(CODE_PATH, continue_to) if self._codes is not None else None,
            can_recover=self._can_recover,
            register_path=with_continue("/identity/register", continue_to)
            if self._kit.accounts.allows_registration
            else None,
            switch_path=f"{login_path(continue_to or ACCOUNT_PATH, reauthenticate=True)}&switch=1",
            **more,
        )

    # --- second factor ---

    async def second_page(self, request: Request) -> Reply:
        note = self._kit.browser.flow(request)
        steps = self._offered(note)
        query = Form.parse(request.query_string)
        continue_to = safe_path(query.one("continue"))
        if not note.get("mfa") or not steps:
            return redirect(with_continue(LOGIN_PATH, continue_to))
        chosen = next((step for step in steps if step.name == query.one("method")), steps[0])
        return await self._second(request, note, chosen, continue_to, sent="sent" in query)

    async def second(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        note = self._kit.browser.flow(request)
        step, continue_to = self._step(note, body), safe_path(body.one("continue"))
        if step is None:
            return self._over(continue_to)
        try:
            outcome = await step.finish(note["mfa"], body, origin(request))
        except InvalidToken:
            return self._over(continue_to)
        except (Forbidden, Invalid, TooMany) as error:
            return await self._second(request, note, step, continue_to, **trouble(error))
        return await self._kit.finish(
            request,
            outcome,
            before=caller,
            continue_to=continue_to,
            remember=bool(note.get("remember")),
            identifier=note.get("identifier") or None,
        )

    async def send_second(self, request: Request, body: Form) -> Reply:
        await self._kit.checked(request, body)
        note = self._kit.browser.flow(request)
        step, continue_to = self._step(note, body), safe_path(body.one("continue"))
        if step is None or step.send is None:
            return self._over(continue_to)
        try:
            await step.send(note["mfa"], origin(request))
        except InvalidToken:
            return self._over(continue_to)
        except (Invalid, TooMany) as error:
            return await self._second(request, note, step, continue_to, **trouble(error))
        path = with_continue(SECOND_PATH, continue_to)
        return redirect(f"{path}{'&' if '?' in path else '?'}method={step.name}&sent=1")

    async def _second(
        self,
        request: Request,
        note: Mapping[str, str],
        step: SecondStep,
        continue_to: str | None,
        *,
        sent: bool = False,
        **more: Any,
    ) -> Reply:
        caller = await self._kit.browser.current(request)
        try:
            prepared: Mapping[str, Any] = {} if step.prepare is None else await step.prepare(note["mfa"])
        except Unauthenticated:
            return self._over(continue_to)
        others = [other for other in self._offered(note) if other.name != step.name]
        return self._kit.show(
            request,
            "second.html",
            caller,
            script=step.script,
            step=step,
            prepared=prepared,
            others=others,
            second_path=SECOND_PATH,
            continue_to=continue_to,
            sent=sent,
            **more,
        )

    def _offered(self, note: Mapping[str, str]) -> list[SecondStep]:
        asked = note.get("methods", "").split()
        return [step for step in self._steps.values() if step.name in asked]

    def _step(self, note: Mapping[str, str], body: Form) -> SecondStep | None:
        wanted = body.one("method")
        return next((step for step in self._offered(note) if step.name == wanted), None) if note.get("mfa") else None

    def _over(self, continue_to: str | None) -> Reply:
        path = with_continue(LOGIN_PATH, continue_to)
        return redirect(f"{path}{'&' if '?' in path else '?'}over=1", self._kit.browser.flow_headers(None))

    # --- one-time code ---

    async def code_page(self, request: Request) -> Reply:
        query = Form.parse(request.query_string)
        caller = await self._kit.browser.current(request)
        return self._ask(request, caller, safe_path(query.one("continue")), "")

    async def send_code(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        identifier, continue_to = (body.one("identifier") or "")[:MAX_TYPED], safe_path(body.one("continue"))
        if self._codes is None:
            return redirect(LOGIN_PATH)
        try:
            await self._codes.start_login(identifier, origin(request))
        except (Invalid, TooMany) as error:
            return self._ask(request, caller, continue_to, identifier, **trouble(error))
        remember = "1" if "remember" in body else ""
        note = {"code_for": identifier, "remember": remember}
        return redirect(with_continue(CODE_ENTER_PATH, continue_to), self._kit.browser.flow_headers(note))

    async def enter_code_page(self, request: Request) -> Reply:
        note = self._kit.browser.flow(request)
        if not note.get("code_for"):
            return redirect(CODE_PATH)
        continue_to = safe_path(Form.parse(request.query_string).one("continue"))
        return self._enter(request, await self._kit.browser.current(request), note, continue_to)

    async def enter_code(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        note = self._kit.browser.flow(request)
        identifier = note.get("code_for")
        if not identifier or self._codes is None or self._signin is None:
            return redirect(CODE_PATH)
        try:
            outcome = await self._codes.confirm_login(identifier, body.one("code") or "", origin(request), self._signin)
        except (Unauthenticated, Forbidden, Invalid, TooMany) as error:
            return self._enter(request, caller, note, safe_path(body.one("continue")), **trouble(error))
        return await self._kit.finish(
            request,
            outcome,
            before=caller,
            continue_to=safe_path(body.one("continue")),
            remember=bool(note.get("remember")),
            identifier=identifier,
        )

    def _ask(
        self, request: Request, caller: Caller | None, continue_to: str | None, identifier: str, **more: Any
    ) -> Reply:
        return self._kit.show(
            request,
            "login_code.html",
            caller,
            identifier=identifier,
            continue_to=continue_to,
            login_path=with_continue(LOGIN_PATH, continue_to),
            **more,
        )

    def _enter(
        self,
        request: Request,
        caller: Caller | None,
        note: Mapping[str, str],
        continue_to: str | None,
        **more: Any,
    ) -> Reply:
        return self._kit.show(
            request,
            "login_code_enter.html",
            caller,
            identifier=note["code_for"],
            continue_to=continue_to,
            again_path=with_continue(CODE_PATH, continue_to),
            **more,
        )

    # --- out ---

    async def logout_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        return self._kit.show(request, "logout.html", caller)

    async def logout(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.browser.current(request)
        headers = self._kit.browser.signed_out_headers()
        if caller is None:
            self._kit.browser.check_source(request)
            return redirect(LOGOUT_PATH, headers)
        self._kit.browser.check_form(request, body, caller)
        whence = origin(request)
        if "everywhere" in body:
            await self._kit.accounts.logout_all(caller, whence)
        else:
            await self._kit.accounts.logout(caller, whence)
        return redirect(LOGOUT_PATH, headers)
