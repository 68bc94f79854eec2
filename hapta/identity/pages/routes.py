"""The URL table of the pages. They read the session cookie themselves; whoever has none is shown the login."""

from __future__ import annotations

from collections.abc import Sequence

from hapta.http.api import Endpoint
from hapta.identity.pages.account import AccountPages
from hapta.identity.pages.kit import PageKit
from hapta.identity.pages.ports import (
    AccountSection,
    CompletesSignIn,
    ConnectedApps,
    LoginExtra,
    OneTimeCodes,
    ProviderButton,
    RecentActivity,
    Recovery,
    SecondStep,
)
from hapta.identity.pages.recover import RecoverPages
from hapta.identity.pages.signin import SignInPages
from hapta.identity.pages.signup import SignUpPages
from hapta.identity.pages.table import PageTable

TEMPLATES = ("hapta.identity", "templates")
"""The folder of these pages' templates, for `Pages`."""


def routes(
    kit: PageKit,
    *,
    codes: OneTimeCodes | None = None,
    signin: CompletesSignIn | None = None,
    recovery: Recovery | None = None,
    providers: Sequence[ProviderButton] = (),
    steps: Sequence[SecondStep] = (),
    extras: Sequence[LoginExtra] = (),
    sections: Sequence[AccountSection] = (),
    apps: ConnectedApps | None = None,
    activity: RecentActivity | None = None,
) -> list[Endpoint]:
    """The pages; what was not handed in is not offered.

    Args:
        codes: sign-in and verification by one-time codes.
        signin: what a right code opens; needed with `codes`.
        recovery: forgotten passwords and changes of the address.
        providers: other places to sign in at.
        steps: ways to give a second proof.
        extras: more for the login page (passkeys).
        sections: more for the account page (second factors, linked providers).
        apps: third-party apps with access.
        activity: what happened to the account.
    """
    sign_in = SignInPages(
        kit,
        codes=codes,
        signin=signin,
        providers=providers,
        steps=steps,
        extras=extras,
        can_recover=recovery is not None,
    )
    sign_up = SignUpPages(kit, codes=codes)
    account = AccountPages(kit, sections=sections, apps=apps, activity=activity, codes=codes, recovery=recovery)
    table = PageTable(kit.pages, "/identity/")
    found = [
        *table.pair("login", sign_in.login_page, sign_in.login, limit="login"),
        *table.pair("login/second", sign_in.second_page, sign_in.second, limit="login"),
        table.post("login/second/send", sign_in.send_second, limit="login"),
        table.get("on", kit.on_page),
        *table.pair("logout", sign_in.logout_page, sign_in.logout),
        *table.pair("register", sign_up.register_page, sign_up.register, limit="register"),
        table.get("registered", sign_up.registered_page),
        *table.pair("account/password", account.password_page, account.change_password, limit="login"),
        table.get("account", account.page),
        table.post("account/profile", account.save_profile),
        table.post("account/sessions/end", account.end_session),
        table.post("account/sessions/end-others", account.end_others),
        *table.pair("verify", sign_up.verify_page, sign_up.verify, limit="login"),
    ]
    if codes is not None:
        found.append(table.post("verify/send", sign_up.send, limit="login"))
        found += table.pair("account/phone", account.phone_page, account.add_phone, limit="login")
    if sign_in.offers_codes:
        found += table.pair("login/code", sign_in.code_page, sign_in.send_code, limit="login")
        found += table.pair("login/code/enter", sign_in.enter_code_page, sign_in.enter_code, limit="login")
    if apps is not None:
        found.append(table.post("account/apps/withdraw", account.withdraw_app))
    if recovery is not None:
        found += table.pair("account/email", account.email_page, account.change_email, limit="login")
        found += _recovery(table, RecoverPages(kit, recovery))
    return found


def _recovery(table: PageTable, pages: RecoverPages) -> list[Endpoint]:
    return [
        *table.pair("forgot", pages.forgot_page, pages.forgot, limit="login"),
        table.get("forgot/sent", pages.forgot_sent_page),
        *table.pair("reset", pages.reset_page, pages.reset, limit="login"),
        table.get("reset/done", pages.reset_done_page),
        *table.pair("email/confirm", pages.confirm_email_page, pages.confirm_email, limit="login"),
        *table.pair("email/undo", pages.undo_email_page, pages.undo_email, limit="login"),
        table.get("email/done", pages.email_done_page),
    ]
