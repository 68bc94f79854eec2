"""The sections of identity: accounts and sessions, pages, messages, webhooks, and other providers to sign in with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapta.kit.fields import setting


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Accounts, passwords and sessions."""

    jwt_secret: str = setting(
        "",
        "Key that signs session tokens, at least 32 bytes. Without it a development server makes one and keeps it in"
        " `secrets/` in the data folder; production refuses to start.",
        env=("JWT_SECRET",),
        hidden="all",
    )
    jwt_secret_previous: str = setting(
        "",
        "The secret before this one, while it is being replaced: what it signed counts, and what is stored under it is sealed"
        " anew at the start. Before the replacement it may be the next one, so that several servers can change over one by one.",
        env=("JWT_SECRET_PREVIOUS",),
        hidden="all",
    )
    jwt_expires_in_seconds: int = setting(
        7 * 86400, "Life of a session token.", env=("JWT_EXPIRES_IN",), minimum=60, maximum=10 * 366 * 86400
    )
    min_password_characters: int = setting(8, "Shortest password.", minimum=8, maximum=64)
    breach_url: str = setting(
        "",
        "Where new passwords are looked up among those of known breaches, by the first five characters of their SHA-1 (the"
        " range API of Have I Been Pwned, or a copy of one's own); empty: nowhere.",
    )
    allow_registration: bool = setting(
        True,
        "Whether anybody may register; with `false` only `hapta user add` makes accounts.",
        env=("ALLOW_REGISTRATION",),
    )
    verify_email_before_login: bool = setting(
        False,
        "Whether an account can sign in with its password only after its mail address or phone number is verified.",
    )
    token_check: Literal["local", "delegate"] = setting(
        "local",
        "How a resource server judges tokens. `local`: by itself, also while the auth server is away. `delegate`: it asks the"
        " auth server, for an operator who does not trust the resource server's machine.",
    )
    product_name: str = setting("Hapta", "What pages and messages call this server.")
    insecure_cookies: bool = setting(
        False,
        "Cookies that work over plain http, for development on this machine alone; refused in production and for any other"
        " host.",
    )
    access_seconds: int = setting(
        600, "Life of an access token of `/identity/v1`, whose sessions are prolonged by their key.", minimum=60
    )
    key_token_seconds: int = setting(
        366 * 86400,
        "Life of a token of an account that signs in by key. Its clients are devices that cannot ask for a password.",
        minimum=60,
    )
    key_session_seconds: int = setting(
        10 * 366 * 86400, "How long a device of such an account stays signed in, by exchanging its token.", minimum=60
    )
    second_factor_by_mail: bool = setting(
        False,
        "Whether people with an authenticator app may give a code by mail or text message in its place. It is weaker: whoever"
        " reads their mail can then do without the app.",
    )
    password_scheme: Literal["argon2id", "bcrypt", "bcrypt-v1"] = setting(
        "argon2id",
        "How new passwords are hashed. Old hashes stay valid and are renewed at the next login. `bcrypt-v1` is plain bcrypt"
        " for exchange with other systems; it refuses passwords over 72 bytes.",
    )
    password_pepper: str = setting(
        "",
        "Secret mixed into hashes of the scheme `bcrypt`. It cannot be changed without losing the passwords hashed with it.",
        hidden="all",
    )
    bcrypt_cost: int = setting(12, "Work factor of bcrypt.", minimum=4, maximum=18)
    argon2_memory_kib: int = setting(
        19 * 1024, "Memory of one argon2id hash, in KiB.", minimum=8, maximum=4 * 1024 * 1024
    )
    argon2_iterations: int = setting(2, "Passes of argon2id.", minimum=1, maximum=100)
    hash_threads: int = setting(
        2, "Threads that hash passwords; never more run than there are processor cores.", minimum=1, maximum=64
    )
    hash_queue: int = setting(64, "Passwords that may wait to be hashed; beyond it 429.", minimum=1)
    session_idle_seconds: int = setting(14 * 86400, "A session that was not used for so long ends.", minimum=60)
    session_absolute_seconds: int = setting(90 * 86400, "A session ends so long after its login.", minimum=60)
    max_sessions_per_account: int = setting(100, "Sessions of one account; a further login ends the oldest.", minimum=1)
    audit_addresses: Literal["raw", "hashed"] = setting(
        "raw", "How the audit log keeps addresses: `hashed` only tells whether two are the same."
    )
    audit_keep_days: int = setting(365, "Whole days of the audit log that are older go.", minimum=1, maximum=36_500)


@dataclass(frozen=True, slots=True)
class MailSettings:
    """How messages reach people: mail and text messages."""

    sender: Literal["file", "smtp", "webhook"] = setting(
        "file", "`file` writes messages into `outbox/` in the data folder, for development; `smtp`; `webhook`."
    )
    from_address: str = setting("Hapta <no-reply@localhost>", "Sender of mail.")
    smtp_url: str = setting("", "`smtp://user:password@host:587` (STARTTLS) or `smtps://host:465`.", hidden="password")
    webhook_url: str = setting("", "Receives each message as a signed POST (Standard Webhooks), for mail.")
    webhook_secret: str = setting("", "Signs those; `whsec_` and base64 of 24 to 64 bytes.", hidden="all")
    sms_webhook_url: str = setting("", "The same for text messages; empty: phone numbers cannot be verified.")
    sms_webhook_secret: str = setting("", "Signs those.", hidden="all")
    fallback: Literal["none", "smtp", "webhook"] = setting(
        "none", "Second way for mail, used while the first one fails; it needs its own URL above."
    )
    timeout_seconds: float = setting(15.0, "How long a mail server or a provider may take.", minimum=0.1)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Delivery of auth events to registered receivers."""

    timeout_seconds: float = setting(15.0, "How long a receiver may take to answer.", minimum=0.1)
    concurrency: int = setting(8, "Deliveries under way at once, in one worker.", minimum=1)
    concurrency_per_receiver: int = setting(
        2, "Deliveries to one receiver under way at once, of all workers together.", minimum=1
    )
    log_keep_days: int = setting(30, "How long finished deliveries can be looked at and sent again.", minimum=1)
    allow_private: bool = setting(
        False, "Whether outgoing requests may go to private and loopback addresses; for development only."
    )


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Other providers that people may sign in with."""

    github_client_id: str = setting("", "OAuth app at GitHub; empty: GitHub is not offered.")
    github_client_secret: str = setting("", "Its secret.", hidden="all")
    google_client_id: str = setting("", "OAuth client at Google; empty: Google is not offered.")
    google_client_secret: str = setting("", "Its secret.", hidden="all")
    google_domain: str = setting(
        "", "Only people of this domain of Google Workspace; empty: anybody with an account there."
    )
    oidc_issuer: str = setting("", "Issuer of any OpenID provider; empty: none is offered.")
    oidc_client_id: str = setting("", "Client there.")
    oidc_client_secret: str = setting("", "Its secret.", hidden="all")
    oidc_name: str = setting("OpenID", "What its button says.")
    oidc_trust_email: bool = setting(False, "Whether its word that an address is verified counts.")


@dataclass(frozen=True, slots=True)
class OtpSettings:
    """Codes by mail and text message, and links in mails (contract identity, sections 21 and 22)."""

    digits: int = setting(6, "Length of a code sent by mail; text messages always have 6 digits.", minimum=6, maximum=8)
    email_life_seconds: int = setting(600, "How long a mailed code counts.", minimum=30, maximum=600)
    phone_life_seconds: int = setting(300, "How long a texted code counts.", minimum=30, maximum=300)
    max_tries: int = setting(5, "Wrong codes for one purpose and destination in a day.", minimum=1, maximum=10)
    resend_gap_seconds: int = setting(60, "Wait before the next code; doubles for text messages.", minimum=1)
    email_per_day: int = setting(10, "Codes for one mail address in a day.", minimum=1)
    phone_per_day: int = setting(5, "Codes for one phone number in a day.", minimum=1)
    email_per_address_hour: int = setting(20, "Mailed codes asked for by one client address in an hour.", minimum=1)
    phone_per_address_hour: int = setting(10, "Texted codes asked for by one client address in an hour.", minimum=1)
    phone_countries: tuple[str, ...] = setting(
        ("*",), "Countries whose numbers may get text messages (two letters, like `DE`); `*`: all."
    )
    phone_prefix_per_hour: int = setting(
        100, "Text messages to one block of numbers in an hour; more look like somebody earns by them.", minimum=1
    )
    phone_total_per_day: int = setting(2000, "Text messages in a day, to everybody together.", minimum=1)
    link_seconds: int = setting(1800, "Life of a link in a mail.", minimum=60, maximum=86400)
    undo_seconds: int = setting(72 * 3600, "How long a change of the mail address can be undone.", minimum=3600)
    forgot_per_minute: int = setting(3, "Reset links for one mail address in a minute.", minimum=1)
