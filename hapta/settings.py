"""The one frozen settings tree, and the only reader of the environment and of hapta.toml.

Each field carries its own documentation; `hapta settings --markdown` turns it into docs/settings.md. `load()` merges, from
weak to strong: defaults, hapta.toml, environment, the command's options. It either returns a tree whose every value was
checked, or raises one `SettingsError` that lists all that is wrong. Nothing else in Hapta looks at the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast, get_type_hints
from urllib.parse import urlsplit

import msgspec

from hapta.kit.fields import Spec, convert, setting
from hapta.kit.secrets import WeakSecret, check_secret, load_or_create_secret


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one sentence for each thing that is wrong; none shows a secret."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["The settings cannot be used:", *(f"  - {problem}" for problem in problems)]))


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how the server listens."""

    host: str = setting("127.0.0.1", "Address to listen on; `0.0.0.0` for every IPv4 address of the machine.")
    port: int = setting(3000, "TCP port to listen on; `0` takes a free one.", env=("PORT",), minimum=0, maximum=65535)
    workers: int = setting(1, "Processes that serve. More than one needs PostgreSQL and Redis.", minimum=1, maximum=256)
    environment: Literal["development", "production"] = setting(
        "development", "`production` refuses to start without a strong `identity.jwt_secret`.", env=("NODE_ENV",)
    )
    tls_cert: Path | None = setting(None, "Certificate chain in PEM; together with `server.tls_key` it turns TLS on.")
    tls_key: Path | None = setting(None, "Private key in PEM that belongs to `server.tls_cert`.")
    cors_origin: tuple[str, ...] = setting(
        ("*",),
        "Origins whose pages may call the server: `*`, or origins like `https://app.example` separated by commas.",
        env=("CORS_ORIGIN",),
    )
    trust_proxy: int = setting(
        0,
        "Reverse proxies in front of the server: so many entries of `X-Forwarded-For`, from the right, are believed.",
        env=("TRUST_PROXY",),
        minimum=0,
        maximum=16,
    )
    max_body_bytes: int = setting(32 * 1024 * 1024, "Largest request body, measured after decompression.", minimum=1024)
    max_header_bytes: int = setting(32 * 1024, "Largest head of a request.", minimum=1024)
    shutdown_seconds: float = setting(20.0, "How long a stop waits for requests that were accepted.", minimum=0)
    body_timeout_seconds: float = setting(
        30.0, "How long a client may pause while it sends a body; then the request is refused.", minimum=0.1
    )
    max_sockets: int = setting(20_000, "WebSocket connections that one worker holds.", minimum=1)
    metrics_token: str = setting(
        "", "Bearer token that opens `/metrics` to other machines; empty: only this machine may ask.", hidden="all"
    )
    compress_min_bytes: int = setting(1024, "Responses smaller than this are sent uncompressed.", minimum=0)


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Where the server keeps what it writes itself."""

    dir: Path = setting(
        Path("hapta_data"),
        "Folder for the SQLite database and the secrets; a relative path starts at the working folder.",
    )


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """SQLite in the data folder, or PostgreSQL."""

    url: str = setting(
        "",
        "`postgresql://user:password@host/name`, or `sqlite:///path`; empty means SQLite in `hapta.db` in the data folder.",
        env=("DATABASE_URL",),
        hidden="password",
        form="database",
    )
    pool_size: int = setting(10, "PostgreSQL connections of one worker.", minimum=2, maximum=1000)
    lock_timeout_seconds: float = setting(
        5.0, "Longest wait for a lock; then the request is answered 503.", minimum=0.05
    )
    statement_timeout_seconds: float = setting(30.0, "Longest run of one statement; then 503.", minimum=0.1)
    sqlite_synchronous: Literal["FULL", "NORMAL"] = setting(
        "FULL",
        "`FULL`: what was acknowledged survives a power cut. `NORMAL` is faster and may lose the last commits then.",
    )
    sqlite_readers: int = setting(2, "Threads that read SQLite beside the one that writes.", minimum=1, maximum=64)
    queue_limit: int = setting(10_000, "Transactions that may wait; beyond it requests are answered 503.", minimum=1)
    auto_migrate: bool = setting(
        True, "Bring the schema up to date at start. With `false`, `hapta migrate` must have done so."
    )


@dataclass(frozen=True, slots=True)
class BusSettings:
    """How workers tell each other what changed."""

    url: str = setting(
        "",
        "`redis://host:6379/0` (`rediss://` for TLS); empty keeps everything inside the one process.",
        env=("REDIS_URL",),
        hidden="password",
        form="bus",
    )


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
    jwt_expires_in_seconds: int = setting(
        7 * 86400, "Life of a session token.", env=("JWT_EXPIRES_IN",), minimum=60, maximum=10 * 366 * 86400
    )
    allow_registration: bool = setting(
        True,
        "Whether anybody may register; with `false` only `hapta user add` makes accounts.",
        env=("ALLOW_REGISTRATION",),
    )
    password_scheme: Literal["argon2id", "bcrypt"] = setting(
        "argon2id", "How new passwords are hashed. Old hashes stay valid and are renewed at the next login."
    )
    bcrypt_cost: int = setting(12, "Work factor of bcrypt.", minimum=4, maximum=18)
    argon2_memory_kib: int = setting(
        19 * 1024, "Memory of one argon2id hash, in KiB.", minimum=8, maximum=4 * 1024 * 1024
    )
    argon2_iterations: int = setting(2, "Passes of argon2id.", minimum=1, maximum=100)
    hash_threads: int = setting(2, "Threads that hash passwords.", minimum=1, maximum=64)
    hash_queue: int = setting(64, "Passwords that may wait to be hashed; beyond it 429.", minimum=1)
    session_idle_seconds: int = setting(14 * 86400, "A session that was not used for so long ends.", minimum=60)
    session_absolute_seconds: int = setting(90 * 86400, "A session ends so long after its login.", minimum=60)
    max_sessions_per_account: int = setting(100, "Sessions of one account; a further login ends the oldest.", minimum=1)


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """The encrypted log."""

    max_logs_per_push: int = setting(10_000, "Logs in one push.", minimum=1, maximum=100_000)
    max_log_bytes: int = setting(1024 * 1024, "Size of one log.", minimum=1024)
    max_pull_limit: int = setting(1000, "Logs in one page of a pull.", minimum=1, maximum=100_000)
    max_pull_bytes: int = setting(8 * 1024 * 1024, "Size of one page of a pull.", minimum=1024)
    max_wait_ms: int = setting(55_000, "Longest wait of a long poll, in milliseconds.", minimum=0, maximum=600_000)
    quota_bytes_default: int = setting(
        0,
        "Bytes an account may keep unless `hapta user quota` says otherwise; `0` means no limit.",
        env=("QUOTA_BYTES_DEFAULT",),
        minimum=0,
    )
    compact_after_days: int = setting(
        90,
        "Logs that a snapshot replaces may be dropped after so many days, even if a device has not seen them.",
        env=("COMPACT_AFTER_DAYS",),
        minimum=1,
    )
    dropped_keep_days: int = setting(7, "Days that a deleted vault can be brought back.", minimum=0)
    dedupe_keep_days: int = setting(30, "Days that a repeated push is recognised.", minimum=1)
    socket_auth_seconds: float = setting(5.0, "A socket that has not authenticated by then is closed.", minimum=0.1)
    socket_idle_seconds: float = setting(75.0, "A socket that was silent for so long is closed.", minimum=1)
    max_sockets_per_account: int = setting(100, "Sockets of one account on one worker.", minimum=1)
    max_subscriptions_per_socket: int = setting(100, "Vaults that one socket may listen to.", minimum=1)
    max_vaults_per_account: int = setting(1000, "Vaults of one account; a new one beyond them is refused.", minimum=1)
    max_devices_per_account: int = setting(
        1000, "Devices of one account that are kept; one beyond them may sync, and is not listed.", minimum=1
    )


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """How often somebody may call. A rate is written `<count>/<seconds>:<burst>`."""

    enabled: bool = setting(True, "Turn `false` only for benchmarks.")
    default: str = setting("600/60:200", "Public endpoints, for each client address.", form="rate")
    auth: str = setting(
        "10/60:10", "Login and registration, for each address and for each e-mail address.", form="rate"
    )
    sync: str = setting("600/60:100", "Endpoints of sync, for each account.", form="rate")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the server writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least level that is written.")
    format: Literal["json", "console"] = setting("json", "`json`: an object a line. `console`: for people.")
    access: bool = setting(True, "One line for each request.")


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Known, checked and not used yet: names under which the gateway for PocketBase will be configured. It is not part of
    this release, so none of them changes anything, with the one exception that `ssl_enabled` says."""

    db_url: str = setting("", "Address of PocketBase. Not used yet.", env=("DB_URL", "DatabaseURL"), hidden="password")
    admin_email: str = setting("", "PocketBase's superuser. Not used yet.", env=("ADMIN_EMAIL", "AdminEmail"))
    admin_password: str = setting(
        "", "Password of the superuser. Not used yet.", env=("ADMIN_PASSWORD", "AdminPassword"), hidden="all"
    )
    admin_key: str = setting(
        "", "Key of the gateway's operators. Not used yet.", env=("HAPTA_ADMIN_KEY",), hidden="all"
    )
    ssl_enabled: bool = setting(
        False,
        "An older name's wish for TLS: with `true` the server refuses to start without `server.tls_cert`, instead of"
        " serving in clear.",
        env=("SSL_ENABLED",),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The tree. Frozen: a process has one, made at start and handed down."""

    server: ServerSettings = field(default_factory=ServerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    bus: BusSettings = field(default_factory=BusSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    ratelimit: RateLimitSettings = field(default_factory=RateLimitSettings)
    log: LogSettings = field(default_factory=LogSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)


# --- the tree as a list ---


def sections() -> list[tuple[str, type[Any]]]:
    """Names of the sections, in order, with their classes."""
    return [(f.name, cast("type[Any]", get_type_hints(Settings)[f.name])) for f in dataclasses.fields(Settings)]


def specs() -> Iterator[Spec]:
    """Every setting, in the order of the tree."""
    for section, kind in sections():
        hints = get_type_hints(kind)
        for f in dataclasses.fields(kind):
            yield Spec(section, f.name, hints[f.name], f.default, f.metadata["about"])


# --- loading ---

CONFIG_ENV: Final = "HAPTA_CONFIG"
RESOLVED_ENV: Final = "HAPTA_RESOLVED_SETTINGS"
OTHERS: Final = (
    "HAPTA_VAULT_",
    "HAPTA_BENCH_",
    "HAPTA_PASSWORD",
    "HAPTA_NEW_PASSWORD",
    "HAPTA_PASSPHRASE",
)
"""Beginnings of names in the environment that the client and the bench read; the server passes them by."""


@dataclass(frozen=True, slots=True)
class _Given:
    value: object
    origin: str


def load(
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Reads the settings.

    Args:
        environ: usually `os.environ`.
        overrides: the command's options by path (`{"server.port": 4000}`); None as a value means "not given".
        config_file: the file to read in place of the one in `HAPTA_CONFIG` or of `hapta.toml` in the working folder.
        cwd: folder in which `hapta.toml` is looked for; the working folder when left out.

    Raises:
        SettingsError: an unknown name, a bad value, or values that do not go together; all of them are listed.
    """
    return load_with_origins(environ, overrides=overrides, config_file=config_file, cwd=cwd)[0]


def load_with_origins(
    environ: Mapping[str, str],
    *,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
    cwd: Path | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Like `load`, and says for each setting that was given where it came from (`{"server.port": "PORT"}`)."""
    problems: list[str] = []
    given = _from_file(_config_path(environ, config_file, cwd or Path.cwd(), problems), problems)
    given |= _from_environment(environ, problems)
    known = {spec.path: spec for spec in specs()}
    for path, value in (overrides or {}).items():
        if value is not None:
            given[path] = _Given(value, f"option --{path.rpartition('.')[2].replace('_', '-')}")
    values: dict[str, dict[str, object]] = {name: {} for name, _ in sections()}
    for path, entry in given.items():
        spec = known[path]
        try:
            values[spec.section][spec.name] = convert(spec, entry.value)
        except ValueError as error:
            problems.append(f"{path}: {_bad_value(spec, entry, str(error))}")
    settings = Settings(**{name: kind(**values[name]) for name, kind in sections()})
    problems += _cross_checks(settings, given)
    if problems:
        raise SettingsError(problems)
    return settings, {path: entry.origin for path, entry in given.items()}


def from_environment(environ: Mapping[str, str]) -> Settings:
    """The settings inside a worker process: those its parent handed over in one variable, or else `load(environ)`."""
    resolved = environ.get(RESOLVED_ENV)
    if resolved is None:
        return load(environ)
    return msgspec.json.decode(resolved, type=Settings, dec_hook=_decode_path)


def for_workers(settings: Settings) -> dict[str, str]:
    """What the parent adds to the environment of its workers, so that options and a made secret reach them unchanged."""
    return {RESOLVED_ENV: msgspec.json.encode(settings, enc_hook=str).decode()}


def _decode_path(kind: type[Any], value: Any) -> Any:
    return kind(value)


def _config_path(environ: Mapping[str, str], config_file: Path | None, cwd: Path, problems: list[str]) -> Path | None:
    named = config_file or (Path(environ[CONFIG_ENV]) if environ.get(CONFIG_ENV) else None)
    path = cwd / (named or "hapta.toml")
    if path.is_file():
        return path
    if named is not None:
        problems.append(
            f"{path}: the settings file is not there; it was named by {'--config' if config_file else CONFIG_ENV}"
        )
    return None


def _from_file(path: Path | None, problems: list[str]) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}
    known = {spec.path for spec in specs()}
    names = {name for name, _ in sections()}
    given: dict[str, _Given] = {}
    for section, content in document.items():
        if section not in names:
            problems.append(f"{path}: [{section}] is not a section; known are {', '.join(sorted(names))}")
        elif not isinstance(content, dict):
            problems.append(f"{path}: {section} must be a section, written [{section}]")
        else:
            for name, value in cast("dict[str, object]", content).items():
                if f"{section}.{name}" in known:
                    given[f"{section}.{name}"] = _Given(value, str(path))
                else:
                    problems.append(f"{path}: {section}.{name} is not a setting{_near(f'{section}.{name}', known)}")
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    names: set[str] = {CONFIG_ENV, RESOLVED_ENV}
    for spec in specs():
        names.update(spec.env)
        found = [name for name in spec.env if name in environ]
        if not found:
            continue
        first = environ[found[0]]
        for other in found[1:]:
            if not _same(spec, first, environ[other]):
                problems.append(f"{spec.path}: {found[0]} and {other} are both set and differ; remove one of them")
        given[spec.path] = _Given(first, found[0])
    for name in sorted(environ):
        if name.startswith("HAPTA_") and name not in names and not name.startswith(OTHERS):
            problems.append(f"{name}: no setting has this name{_near(name, names)}")
    return given


def _same(spec: Spec, one: str, other: str) -> bool:
    try:
        return convert(spec, one) == convert(spec, other)
    except ValueError:
        return one == other


def _near(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _bad_value(spec: Spec, entry: _Given, why: str) -> str:
    value = "the value (not shown)" if spec.about.hidden else repr(entry.value)
    return f"{value} from {entry.origin} is not usable: {why}"


# --- values that must go together ---


def is_postgres(settings: Settings) -> bool:
    """Whether the database is PostgreSQL."""
    return urlsplit(settings.database.url).scheme in ("postgres", "postgresql")


def _cross_checks(settings: Settings, given: Mapping[str, _Given]) -> list[str]:
    return [*_check_secret(settings, given), *_check_tls(settings), *_check_workers(settings)]


def _check_secret(settings: Settings, given: Mapping[str, _Given]) -> list[str]:
    production = settings.server.environment == "production"
    if not production and "identity.jwt_secret" not in given:
        return []  # a development server makes one
    # Set and empty is refused in development too: somebody meant to set it, and a made secret would hide that
    # (docs/sync.md, environment).
    try:
        check_secret(settings.identity.jwt_secret, production=production)
    except WeakSecret as error:
        return [f"identity.jwt_secret (HAPTA_IDENTITY_JWT_SECRET or JWT_SECRET): {error}"]
    return []


def _check_tls(settings: Settings) -> list[str]:
    cert, key = settings.server.tls_cert, settings.server.tls_key
    problems = [
        f"server.{name}: there is no file {str(path)!r}"
        for name, path in (("tls_cert", cert), ("tls_key", key))
        if path is not None and not path.is_file()
    ]
    if (cert is None) != (key is None):
        problems.append("server.tls_cert and server.tls_key: TLS needs both, and only one is set")
    if settings.gateway.ssl_enabled and cert is None:
        problems.append("gateway.ssl_enabled: TLS is asked for, so set server.tls_cert and server.tls_key")
    return problems


def _check_workers(settings: Settings) -> list[str]:
    if settings.server.workers == 1:
        return []
    missing = [
        name
        for name, there in (
            ("PostgreSQL (database.url)", is_postgres(settings)),
            ("Redis (bus.url)", bool(settings.bus.url)),
        )
        if not there
    ]
    if not missing:
        return []
    return [f"server.workers: {settings.server.workers} processes need {' and '.join(missing)}; start one, or set them"]


# --- the secret of a development server ---


def secret_path(data_dir: Path) -> Path:
    """Where a development server keeps the key that signs its tokens."""
    return data_dir / "secrets" / "jwt_secret"


def development_secret(data_dir: Path) -> tuple[str, str | None]:
    """The signing key of a development server: the one kept in the data folder, or a new one that is kept from now on.

    Several processes may call this at once: all get the same key.

    Returns:
        The key, and a line to tell the operator when a new one was made.

    Raises:
        SettingsError: the file is there and cannot be used, or cannot be written.
    """
    path = secret_path(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret, made = load_or_create_secret(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"identity.jwt_secret: cannot keep a development secret in {path}: {error}"]) from error
    except WeakSecret as error:
        raise SettingsError([f"identity.jwt_secret: {error}"]) from error
    if not made:
        return secret, None
    return secret, f"Made a secret for development and kept it in {path}; every session ends if it is lost."


def with_secret(settings: Settings) -> tuple[Settings, str | None]:
    """The settings with a signing key: their own, or a development server's. The text is for the operator, if there is any."""
    if settings.identity.jwt_secret:
        return settings, None
    secret, notice = development_secret(settings.data.dir)
    identity = dataclasses.replace(settings.identity, jwt_secret=secret)
    return dataclasses.replace(settings, identity=identity), notice
