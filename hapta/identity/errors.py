"""What identity refuses, in the words of the wire (contract sync, sections 2.2, 2.3 and 10.6)."""

from __future__ import annotations

from hapta.kit.errors import Conflict, Forbidden, NotFound, Unauthenticated


class EmailTaken(Conflict):
    """There is an account with this e-mail address."""

    code = "email_taken"
    message = "User already exists"


class RegistrationDisabled(Forbidden):
    """The operator has switched registration off."""

    code = "registration_disabled"
    message = "Registration is disabled"


class InvalidCredentials(Unauthenticated):
    """Unknown e-mail address or wrong password: never told apart."""

    code = "invalid_credentials"
    message = "Invalid email or password"


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
