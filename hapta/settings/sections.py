"""The sections of the settings tree that every feature shares: server, data, database, bus, sync, limits, log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hapta.kit.fields import setting

DEFAULT_PAIR_ADDRESS = "http://127.0.0.1:5000"
"""Where the resource server of a pair on this machine answers, unless `server.public_url` says otherwise."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how the server listens."""

    host: str = setting("127.0.0.1", "Address to listen on; `0.0.0.0` for every IPv4 address of the machine.")
    port: int = setting(3000, "TCP port to listen on; `0` takes a free one.", env=("PORT",), minimum=0, maximum=65535)
    public_url: str = setting(
        "",
        "Address by which people and apps reach the server, such as `https://id.example.org`: the issuer of OAuth, and what"
        " links and cookies are made for. Empty: this machine's own.",
    )
    role: Literal["all", "auth", "resource"] = setting(
        "all",
        "`all`: one server for everything. `auth` and `resource`: the two halves of a pair, OAuth and sign-in apart from"
        " people's data; the resource server is the one that the world talks to.",
    )
    auth_url: str = setting("http://127.0.0.1:5001", "Where a resource server reaches its auth server.")
    resource_url: str = setting(
        "http://127.0.0.1:5002",
        "Where an auth server reaches the second listener of its resource server, for what it must know of people.",
    )
    internal_host: str = setting("127.0.0.1", "Address of that second listener; it answers to the auth server only.")
    internal_port: int = setting(5002, "Port of that second listener.", minimum=1, maximum=65535)
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

    @property
    def public_address(self) -> str:
        """`public_url`, or for a server without one how this machine reaches it. It never ends with a slash."""
        if self.public_url:
            return self.public_url.rstrip("/")
        if self.role == "auth":  # the world never sees it: issuer, links and cookies are the resource server's
            return DEFAULT_PAIR_ADDRESS
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 - compared, not bound
        scheme = "https" if self.tls_cert is not None else "http"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"


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
    auth_url: str = setting(
        "",
        "Database of the auth side (sessions, clients, grants), in the same form; empty: the same as `database.url`.",
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
class SyncSettings:
    """The encrypted log."""

    max_logs_per_push: int = setting(10_000, "Logs in one push.", minimum=1, maximum=100_000)
    max_log_bytes: int = setting(1024 * 1024, "Size of one log.", minimum=1024)
    max_pull_limit: int = setting(1000, "Logs in one page of a pull.", minimum=1, maximum=100_000)
    max_pull_bytes: int = setting(8 * 1024 * 1024, "Size of one page of a pull.", minimum=1024)
    max_wait_ms: int = setting(55_000, "Longest wait of a long poll, in milliseconds.", minimum=0, maximum=600_000)
    max_blob_bytes: int = setting(
        100 * 1024 * 1024, "Size of one encrypted blob.", minimum=1024, maximum=1024 * 1024 * 1024 * 1024
    )
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
    account: str = setting("300/60:60", "First-party account routes, for each account.", form="rate")
    files: str = setting("1200/60:300", "Uploads and downloads of files, for each account.", form="rate")
    login: str = setting("10/60:10", "Sign-in by page or JSON, for each address.", form="rate")
    register: str = setting("5/60:5", "Sign-up, for each address.", form="rate")
    authorize: str = setting("30/60:30", "Authorization requests and pushed ones, for each address.", form="rate")
    token: str = setting("600/60:120", "The token endpoint, for each address.", form="rate")
    key_accounts: str = setting(
        "60/3600:20", "New accounts of keys and new pairing requests, for each address.", form="rate"
    )
    introspect: str = setting("6000/60:1000", "Introspection, for each address.", form="rate")
    poll: str = setting("120/60:60", "Polls of devices and pairings, for each address.", form="rate")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the server writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "The least level that is written.")
    format: Literal["json", "console"] = setting("json", "`json`: an object a line. `console`: for people.")
    access: bool = setting(True, "One line for each request.")
