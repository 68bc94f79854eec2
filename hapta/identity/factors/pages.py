"""What factors bring to the pages: sections of the account page, steps of the sign-in, and pages of their own.

Whatever changes how one signs in asks for a fresh login first. All of it works without JavaScript but passkeys, which live
in the browser; their script only fills the same forms (contract identity, section 23).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, cast

from hapta.http.api import Endpoint, Reply, Request
from hapta.http.forms import Form
from hapta.http.pages import redirect
from hapta.identity.errors import WrongCode
from hapta.identity.factors.errors import BadPasskey, ChallengeOver, FactorExists, FactorNotFound, StepUpRequired
from hapta.identity.factors.models import Ceremony, Enrolment, Json
from hapta.identity.factors.passkeys import MAX_PASSKEYS, PasskeyService, passkey_id
from hapta.identity.factors.service import RECOVERY_CODES, FactorService, require_fresh
from hapta.identity.models import Origin, SignedIn
from hapta.identity.pages.kit import PageKit, trouble
from hapta.identity.pages.ports import AccountSection, LoginExtra, SecondStep
from hapta.identity.pages.table import PageTable
from hapta.identity.policy import ACCOUNT_PATH, LOGIN_PATH, login_path, origin, safe_path, with_continue
from hapta.kit.access import Caller
from hapta.kit.errors import Conflict, Invalid, TooMany, Unauthenticated

TOTP_PATH = "/identity/account/totp"
ADD_PATH = "/identity/account/passkeys/add"
RENAME_PATH = "/identity/account/passkeys/rename"
REMOVE_PATH = "/identity/account/passkeys/remove"
PASSKEY_LOGIN_PATH = "/identity/login/passkey"
QR_SCALE = 5
_MAIL_STEPS = (
    ("email", "Code by mail", "We send a code to your mail address."),
    ("sms", "Code by text message", "We send a code to your phone."),
)


def script(name: str) -> str:
    """A script of our pages."""
    return (files("hapta.identity") / "templates" / name).read_text("utf-8")


class FactorPages:
    """Handlers, and the parts for other pages."""

    def __init__(self, kit: PageKit, factors: FactorService, passkeys: PasskeyService) -> None:
        self._kit = kit
        self._factors = factors
        self._passkeys = passkeys
        self._clock = factors.clock
        self._script = script("passkey.js")
        self._print_script = script("print.js")

    # --- parts of other pages ---

    def steps(self) -> list[SecondStep]:
        """Ways to give a second proof; which of them a person has, the half-finished sign-in says."""

        async def by_code(token: str, form: Form, whence: Origin) -> SignedIn:
            return await self._factors.second(token, form.one("code") or "", whence)

        return [
            SecondStep(
                "totp", "Code from your app", "Enter the six digits that your authenticator app shows.", by_code
            ),
            SecondStep(
                "passkey",
                "Use a passkey",
                "Confirm with a passkey of yours.",
                self._finish_second,
                template="passkey_second.html",
                prepare=self._prepare_second,
                script=self._script,
            ),
            *(self._mail_step(*step) for step in _MAIL_STEPS),
            SecondStep(
                "recovery_code",
                "Use a recovery code",
                "Enter one of the recovery codes that you have kept. Each counts once.",
                by_code,
                numeric=False,
            ),
        ]

    def extras(self) -> list[LoginExtra]:
        """The button for passkeys on the login page; the browser offers them in the field for the name as well."""
        return [LoginExtra("passkey_login.html", _nothing, self._script)]

    def sections(self) -> list[AccountSection]:
        """Second factors and passkeys, for the account page."""
        return [
            AccountSection("factors_section.html", self._factors_section),
            AccountSection("passkeys_section.html", self._passkeys_section),
        ]

    def endpoints(self) -> list[Endpoint]:
        """The URL table."""
        table = PageTable(self._kit.pages)
        return [
            table.get(TOTP_PATH, self.totp_page),
            table.post(TOTP_PATH, self.begin_totp),
            table.post(f"{TOTP_PATH}/confirm", self.confirm_totp, limit="login", shows=True),
            table.post(f"{TOTP_PATH}/codes", self.new_codes, shows=True),
            table.post(f"{TOTP_PATH}/remove", self.remove_totp),
            table.get(ADD_PATH, self.add_page),
            table.post(ADD_PATH, self.add),
            table.post(RENAME_PATH, self.rename),
            table.post(REMOVE_PATH, self.remove),
            table.post(PASSKEY_LOGIN_PATH, self.sign_in, limit="login"),
        ]

    def _mail_step(self, name: str, label: str, text: str) -> SecondStep:
        async def send(token: str, whence: Origin) -> None:
            await self._factors.send_second(token, name, whence)

        async def finish(token: str, form: Form, whence: Origin) -> SignedIn:
            return await self._factors.second_by_sent_code(token, name, form.one("code") or "", whence)

        return SecondStep(name, label, text, finish, send)

    async def _prepare_second(self, token: str) -> Mapping[str, Any]:
        return _on_page(await self._passkeys.begin_second(token))

    async def _finish_second(self, token: str, form: Form, whence: Origin) -> SignedIn:
        return await self._passkeys.second(token, _ceremony_id(form), _credential(form), whence)

    async def _factors_section(self, caller: Caller) -> Mapping[str, Any]:
        found = await self._factors.factors(caller.user_id)
        return {
            "totp": found.totp,
            "codes_left": found.recovery_codes_left,
            "codes_made": RECOVERY_CODES,
            "path": TOTP_PATH,
        }

    async def _passkeys_section(self, caller: Caller) -> Mapping[str, Any]:
        found = await self._passkeys.list(caller.user_id)
        return {
            "passkeys": [{"passkey": one, "id": passkey_id(one)} for one in found],
            "can_add": len(found) < MAX_PASSKEYS,
            "add_path": ADD_PATH,
            "rename_path": RENAME_PATH,
            "remove_path": REMOVE_PATH,
        }

    # --- the app ---

    async def totp_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        try:
            require_fresh(_somebody(caller), self._clock)
            return await self._totp(request, _somebody(caller))
        except Unauthenticated as error:
            return self._login(error, TOTP_PATH)

    async def begin_totp(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        try:
            await self._factors.begin_totp(_somebody(caller))
        except FactorExists:
            return redirect(TOTP_PATH)
        except Unauthenticated as error:
            return self._login(error, TOTP_PATH)
        return redirect(TOTP_PATH)

    async def confirm_totp(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        key = self._kit.browser.session_key(request)
        try:
            rolled, codes = await self._factors.confirm_totp(
                _somebody(caller), body.one("code") or "", origin(request), key=key
            )
        except FactorNotFound:
            return redirect(TOTP_PATH)
        except WrongCode as error:
            shown = trouble(error)
            return await self._totp(
                request, _somebody(caller), **(shown | {"faults": {"code": shown["notice"]}, "notice": None})
            )
        except TooMany as error:
            return await self._totp(request, _somebody(caller), **trouble(error))
        except Unauthenticated as error:
            return self._login(error, TOTP_PATH)
        return self._codes(request, caller, rolled, codes)

    async def new_codes(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        key = self._kit.browser.session_key(request)
        try:
            rolled, codes = await self._factors.new_recovery_codes(_somebody(caller), origin(request), key=key)
        except FactorNotFound:
            return redirect(TOTP_PATH)
        except Unauthenticated as error:
            return self._login(error, TOTP_PATH)
        return self._codes(request, caller, rolled, codes)

    async def remove_totp(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        key = self._kit.browser.session_key(request)
        try:
            rolled = await self._factors.remove_totp(_somebody(caller), origin(request), key=key)
        except FactorNotFound:
            return redirect(TOTP_PATH)
        except Unauthenticated as error:
            return self._login(error, TOTP_PATH)
        return self._done(request, "totp_removed", rolled)

    async def _totp(self, request: Request, caller: Caller, **more: Any) -> Reply:
        found = await self._factors.factors(caller.user_id)
        enrolment = None if found.totp else await self._factors.pending_totp(caller)
        return self._kit.show(
            request,
            "factors_totp.html",
            caller,
            path=TOTP_PATH,
            on=found.totp,
            codes_left=found.recovery_codes_left,
            codes_made=RECOVERY_CODES,
            enrolment=enrolment,
            qr=None if enrolment is None else _qr(enrolment),
            secret=None if enrolment is None else _in_groups(enrolment.secret),
            **more,
        )

    def _codes(self, request: Request, caller: Caller | None, rolled: SignedIn, codes: list[str]) -> Reply:
        # Not a redirect: they are shown by this very answer or never. The page has no form, since the session has rolled.
        return self._kit.show(
            request,
            "factors_codes.html",
            caller,
            headers=self._rolled_headers(request, rolled),
            script=self._print_script,
            codes=codes,
            account=rolled.person.email or rolled.person.phone,
            made_at=self._clock.now_ms(),
        )

    # --- passkeys of an account ---

    async def add_page(self, request: Request) -> Reply:
        caller = await self._kit.browser.current(request)
        try:
            return await self._add(request, _somebody(caller))
        except Unauthenticated as error:
            return self._login(error, ADD_PATH)

    async def add(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        name = (body.one("name") or "")[:64]
        try:
            rolled, _ = await self._passkeys.finish_registration(
                _somebody(caller),
                _ceremony_id(body),
                _credential(body),
                name,
                origin(request),
                key=self._kit.browser.session_key(request),
            )
        except (Invalid, Conflict) as error:
            try:
                return await self._add(request, _somebody(caller), name=name, **trouble(error))
            except Unauthenticated as stale:
                return self._login(stale, ADD_PATH)
        except Unauthenticated as error:
            return self._login(error, ADD_PATH)
        return self._done(request, "passkey", rolled)

    async def rename(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        try:
            await self._passkeys.rename(_somebody(caller), body.one("passkey") or "", body.one("name") or "")
        except FactorNotFound:
            return redirect(ACCOUNT_PATH)
        except Unauthenticated as error:
            return self._login(error, ACCOUNT_PATH)
        return self._done(request, "passkey_renamed", None)

    async def remove(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        key = self._kit.browser.session_key(request)
        try:
            rolled = await self._passkeys.remove(_somebody(caller), body.one("passkey") or "", origin(request), key=key)
        except FactorNotFound:
            return redirect(ACCOUNT_PATH)
        except Unauthenticated as error:
            return self._login(error, ACCOUNT_PATH)
        return self._done(request, "passkey_removed", rolled)

    async def _add(self, request: Request, caller: Caller, *, name: str = "", **more: Any) -> Reply:
        try:
            prepared: Mapping[str, Any] = _on_page(await self._passkeys.begin_registration(caller))
        except Conflict as error:
            prepared, more = {"ceremony": None, "options": None}, {**more, **trouble(error)}
        return self._kit.show(
            request, "passkey_add.html", caller, script=self._script, action=ADD_PATH, name=name, **prepared, **more
        )

    # --- signing in ---

    async def sign_in(self, request: Request, body: Form) -> Reply:
        caller = await self._kit.checked(request, body)
        continue_to, whence = safe_path(body.one("continue")), origin(request)
        try:
            given = _ceremony_id(body), _credential(body)
            if caller is not None and "again" in body:
                key = self._kit.browser.session_key(request)
                rolled = await self._passkeys.confirm(caller, *given, whence, key=key)
                return redirect(continue_to or ACCOUNT_PATH, self._rolled_headers(request, rolled))
            outcome = await self._passkeys.sign_in(*given, whence)
        except ChallengeOver:
            path = with_continue(LOGIN_PATH, continue_to)
            return redirect(f"{path}{'&' if '?' in path else '?'}over=1")
        except (BadPasskey, Unauthenticated):
            again = login_path(continue_to or ACCOUNT_PATH, reauthenticate=caller is not None and "again" in body)
            return self._kit.show(
                request,
                "done.html",
                caller,
                status=400,
                title="That passkey did not work",
                text="It is not one of an account here, or it was removed. You can sign in another way.",
                link=(again, "Back to sign in"),
            )
        return await self._kit.finish(
            request,
            outcome,
            before=caller,
            continue_to=continue_to,
            remember="remember" in body,
            identifier=None,
        )

    # --- parts ---

    def _login(self, error: Unauthenticated, path: str) -> Reply:
        """The login page, which leads back: for whoever is not signed in, or was so too long ago."""
        return self._kit.browser.login_redirect(path, reauthenticate=isinstance(error, StepUpRequired))

    def _done(self, request: Request, what: str, rolled: SignedIn | None) -> Reply:
        headers = () if rolled is None else self._rolled_headers(request, rolled)
        return redirect(f"{ACCOUNT_PATH}?done={what}", headers)

    def _rolled_headers(self, request: Request, rolled: SignedIn) -> tuple[tuple[bytes, bytes], ...]:
        browser = self._kit.browser
        return browser.signed_in_headers(rolled, browser.remembered(request))


async def _nothing() -> Mapping[str, Any]:
    return {}


def _somebody(caller: Caller | None) -> Caller:
    if caller is None:
        raise Unauthenticated
    return caller


def _ceremony_id(form: Form) -> str:
    return (form.one("ceremony") or "")[:64]


def _credential(form: Form) -> Json:
    """What the script has put in.

    Raises:
        BadPasskey: it is no JSON object.
    """
    try:
        found = json.loads(form.one("credential") or "")
    except (ValueError, RecursionError):
        raise BadPasskey from None
    if not isinstance(found, dict):
        raise BadPasskey
    return cast("Json", found)


def _on_page(ceremony: Ceremony) -> Mapping[str, Any]:
    return {"ceremony": ceremony.id, "options": json.dumps(ceremony.options)}


def _qr(enrolment: Enrolment) -> str:
    """The code to scan, as SVG of our own: dark on light whatever the colours of the page, or cameras do not find it."""
    import segno  # when the first app is set up: it takes 10 MB that a server without need not spend

    drawn = segno.make(enrolment.uri, error="m").svg_inline(scale=QR_SCALE, dark="#000", light="#fff")
    return drawn.replace("<svg ", '<svg role="img" aria-label="QR code for your app" ', 1)


def _in_groups(secret: str) -> str:
    """In fours, as people type it."""
    return " ".join(secret[start : start + 4] for start in range(0, len(secret), 4))
