"""What identity refuses, in the words of the wire (contract sync, sections 2.2, 2.3 and 10.6)."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated


class EmailTaken(Conflict):
    """There is an account with this e-mail address."""

    code = "email_taken"
    message = "User already exists"


class PhoneTaken(Conflict):
    """There is an account with this phone number."""

    code = "phone_taken"
    message = "This phone number belongs to an account already"


class RegistrationDisabled(Forbidden):
    """The operator has switched registration off."""

    code = "registration_disabled"
    message = "Registration is disabled"


class InvalidCredentials(Unauthenticated):
    """Unknown e-mail address or wrong password: never told apart."""

    code = "invalid_credentials"
    message = "Invalid email or password"


class SecondFactorRequired(Forbidden):
    """The password is right, and the account asks for a second proof, for which this dialect has no words."""

    code = "second_factor_required"
    message = "This account asks for a second factor: sign in at /identity/v1/login"


class WrongPassword(Forbidden):
    """The caller is logged in, but the password given as a second proof is wrong. Not a 401: the token is good."""

    code = "wrong_password"
    message = "The current password is wrong"


class SessionNotFound(NotFound):
    """The account has no such live session."""

    code = "session_not_found"
    message = "Session not found"


class AccountNotFound(NotFound):
    """No account has this e-mail address. Only operators' commands ever say so."""

    code = "account_not_found"
    message = "There is no account with this e-mail address"


class CsrfFailed(Forbidden):
    """A request that may come from a foreign page (contract identity, section 19). Which guard refused is never told."""

    code = "csrf_failed"
    message = "This request did not come from our own page. Go back, reload the page and try again"


class WrongCode(Invalid):
    """A one-time code that does not count: wrong, expired, used up, or never sent. Which of these is never told."""

    code = "wrong_code"
    message = "This code is wrong or no longer valid"


class BadLink(Invalid):
    """A link from a mail that does not count (any more)."""

    code = "bad_link"
    message = "This link is wrong or no longer valid"


class PhoneNotServed(Invalid):
    """Text messages do not go to this number: its country, its kind, or no provider is set up."""

    code = "phone_not_served"
    message = "This number cannot get text messages from here"
