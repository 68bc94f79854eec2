"""Mail addresses and phone numbers in one form each: as stored, as compared, as sent to (contract identity, section 21).

Whoever looks a person up, stores an address or counts tries by one goes through here first: two spellings of one address
must never be two people, and one that looks like another script's is refused when it is made.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Literal, NamedTuple

from hapta.identity.password_policy import email_issues, email_key
from hapta.kit.errors import Issue, ValidationFailed

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

__all__ = [
    "Login",
    "can_get_texts",
    "email_key",
    "masked_phone",
    "normal_email",
    "normal_phone",
    "parse_login",
    "phone_prefix",
]

MAX_PHONE_CHARACTERS = 32
PREFIX_DIGITS = 4
"""Digits after the country code that make one block of numbers, as they are sold to carriers."""

_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")
"""Scripts whose letters are taken for each other's."""


class Login(NamedTuple):
    """What somebody typed as their name, in the form that is compared."""

    kind: Literal["email", "phone"]
    value: str
    """The address as typed, or the number in E.164."""
    key: str
    """What is compared and counted by."""


def parse_login(text: str, field: str = "identifier") -> Login:
    """A mail address or phone number, told apart by the `@`. As lenient as the accounts that there may be already.

    Raises:
        ValidationFailed: it is neither.
    """
    if "@" in text:
        if email_issues(text.strip()):
            raise _invalid(field, "Invalid email address")
        return Login("email", text.strip(), email_key(text))
    phone = normal_phone(text, field)
    return Login("phone", phone, phone)


def normal_email(text: str, field: str = "email") -> str:
    """A new address as it is stored and sent to: blanks cut, domain in lower case, local part as typed, in NFC.

    Args:
        field: which field of the request it stands in, for the error.

    Raises:
        ValidationFailed: it is no address, has more than 254 characters, is of a reserved domain, or mixes scripts whose
            letters look alike.
    """
    from email_validator import EmailNotValidError, validate_email  # not held by a server that asks for no address

    typed = text.strip()
    if email_issues(typed):
        raise _invalid(field, "Invalid email address")
    try:
        # Whether mail arrives there is found out by sending it, not by asking the DNS inside a request.
        found = validate_email(typed, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        raise _invalid(field, "Invalid email address") from None
    if _mixes_scripts(found.local_part) or any(_mixes_scripts(label) for label in found.domain.split(".")):
        raise _invalid(field, "Letters of different scripts are mixed")
    return found.normalized


def normal_phone(text: str, field: str = "phone") -> str:
    """The number in E.164: `+4915123456789`.

    Raises:
        ValidationFailed: it has no country code, or is no number that exists there.
    """
    import phonenumbers  # megabytes of tables, which a server without phone numbers need not hold

    number = _number(text, field)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def can_get_texts(phone: str, countries: tuple[str, ...]) -> bool:
    """Whether text messages may go to this number (E.164): its country is listed, and it is no premium-rate or shared-cost one.

    Args:
        countries: ISO 3166 codes; `*` stands for all.
    """
    import phonenumbers

    number = _number(phone, "phone")
    kind = phonenumbers.PhoneNumberType
    dear = (kind.PREMIUM_RATE, kind.SHARED_COST, kind.VOIP, kind.PAGER, kind.UAN, kind.VOICEMAIL, kind.TOLL_FREE)
    if phonenumbers.number_type(number) in dear:
        return False
    return "*" in countries or phonenumbers.region_code_for_number(number) in {code.upper() for code in countries}


def phone_prefix(phone: str) -> str:
    """The block of numbers that this one (E.164) belongs to: country code and the digits that follow it."""
    import phonenumbers

    number = _number(phone, "phone")
    return f"+{number.country_code}{phonenumbers.national_significant_number(number)[:PREFIX_DIGITS]}"


def masked_phone(phone: str) -> str:
    """The number for a page or a mail: its last two digits."""
    return f"…{phone[-2:]}"


def _number(text: str, field: str) -> PhoneNumber:
    import phonenumbers

    if len(text) > MAX_PHONE_CHARACTERS:
        raise _invalid(field, "Invalid phone number")
    try:
        number = phonenumbers.parse(text.strip(), None)
    except phonenumbers.NumberParseException:
        raise _invalid(field, "Invalid phone number; it begins with + and the country code") from None
    if number.extension or not phonenumbers.is_valid_number(number):
        raise _invalid(field, "Invalid phone number")
    return number


def _mixes_scripts(text: str) -> bool:
    if text.isascii():
        return False
    names = [unicodedata.name(character, "") for character in unicodedata.normalize("NFKC", text)]
    return len({script for script in _SCRIPTS for name in names if name.startswith(script)}) > 1


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed([Issue((field,), message)])
