"""What an account may be called and which passwords it may have (contract identity, section 20; contract sync, section 2.2).

Pure judgements: nothing is stored or looked up here but the shipped list of common passwords.
"""

from __future__ import annotations

import unicodedata
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import suppress
from functools import cache
from importlib import resources

from hapta.kit.errors import Issue, ValidationFailed

MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 1024
MAX_EMAIL_CHARACTERS = 254
SALT_BYTES = 32


def email_key(email: str) -> str:
    """The form in which an address is unique: NFKC, without case and the blanks around it."""
    return unicodedata.normalize("NFKC", email.strip()).lower()


def check_email(email: str) -> tuple[str, str]:
    """The address as it is kept and answered, and the form in which it is unique.

    Raises:
        ValidationFailed: it has no `@` with something on both sides, or is too long.
    """
    email = email.strip()
    refuse(email_issues(email))
    return email, email_key(email)


def email_issues(email: str) -> list[Issue]:
    """What is wrong with an address."""
    local, at, domain = email.partition("@")
    # `isprintable` is false for control characters and lone surrogates, which no database text can hold.
    if not (local and at and domain) or "@" in domain or not email.isprintable():
        return [Issue(("email",), "Invalid email")]
    key = email_key(email)
    if key.count("@") != 1 or not key.isprintable():
        return [Issue(("email",), "Invalid email")]
    # The lower-case form of a letter may be longer than the letter.
    if len(email) > MAX_EMAIL_CHARACTERS or len(key) > MAX_EMAIL_CHARACTERS:
        return [Issue(("email",), f"Must have at most {MAX_EMAIL_CHARACTERS} characters")]
    return []


def phone_key(phone: str) -> str | None:
    """The number in E.164 form; None when it is no possible number of any country."""
    import phonenumbers  # takes megabytes of tables that a server without phone numbers need not hold

    with suppress(phonenumbers.NumberParseException):
        number = phonenumbers.parse(phone, None)
        if phonenumbers.is_possible_number(number):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return None


def login_key(identifier: str) -> tuple[str | None, str | None]:
    """What somebody typed as their name, as (e-mail key, phone number): one of them, or neither."""
    identifier = identifier.strip()
    if "@" in identifier:
        return (None, None) if email_issues(identifier) else (email_key(identifier), None)
    if identifier.startswith("+") and len(identifier) <= 32:
        return None, phone_key(identifier)
    return None, None


def length_issues(password: str, field: str, minimum: int) -> list[Issue]:
    """Whether the length alone is acceptable."""
    if len(password) < minimum:
        return [Issue((field,), f"Must have at least {minimum} characters")]
    if len(password) > MAX_PASSWORD_CHARACTERS:
        return [Issue((field,), f"Must have at most {MAX_PASSWORD_CHARACTERS} characters")]
    return []


def password_issues(password: str, field: str, minimum: int, *names: str | None) -> list[Issue]:
    """What is wrong with a new password. There is no rule of composition, and none of age.

    Args:
        names: the account's own address and number, which a password may not be.
    """
    issues = length_issues(password, field, minimum)
    if issues:
        return issues
    plain = unicodedata.normalize("NFKC", password).lower()
    if plain in common_passwords():
        return [Issue((field,), "Is one of the most common passwords")]
    for name in names:
        if name and plain.strip() in {email_key(name), email_key(name).partition("@")[0], name.lstrip("+")}:
            return [Issue((field,), "Must not be the name of the account")]
    return []


def salt_issues(salt: str | None) -> list[Issue]:
    """A real salt must look exactly like a made-up one, or `prelogin` would tell who has an account."""
    if salt is None:
        return []
    with suppress(Base64Error, ValueError):
        raw = b64decode(salt, validate=True)
        if len(raw) == SALT_BYTES and b64encode(raw).decode("ascii") == salt:
            return []
    return [Issue(("authSalt",), f"Must be base64 of {SALT_BYTES} bytes")]


def refuse(issues: list[Issue]) -> None:
    """Raises `ValidationFailed` if there is any issue."""
    if issues:
        raise ValidationFailed(issues)


@cache
def common_passwords() -> frozenset[str]:
    """The shipped list, read when the first password is chosen."""
    text = (resources.files("hapta.identity") / "common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
