"""All settings of a server: `load()` reads them once at start, and everything below gets its own section handed down."""

from hapta.settings.blobs import BlobsSettings
from hapta.settings.files import FilesSettings
from hapta.settings.gateway import GatewaySettings
from hapta.settings.identity import IdentitySettings, MailSettings, OtpSettings, UpstreamSettings, WebhookSettings
from hapta.settings.loading import (
    CONFIG_ENV,
    RESOLVED_ENV,
    SettingsError,
    development_secret,
    for_workers,
    from_environment,
    is_postgres,
    load,
    load_with_origins,
    previous_secret_path,
    secret_path,
    sections,
    specs,
    with_secret,
)
from hapta.settings.oauth import OAuthSettings
from hapta.settings.relay import RelaySettings
from hapta.settings.sections import (
    BusSettings,
    DatabaseSettings,
    DataSettings,
    LogSettings,
    RateLimitSettings,
    ServerSettings,
    SyncSettings,
)
from hapta.settings.tree import Settings

__all__ = [
    "CONFIG_ENV",
    "RESOLVED_ENV",
    "BlobsSettings",
    "BusSettings",
    "DataSettings",
    "DatabaseSettings",
    "FilesSettings",
    "GatewaySettings",
    "IdentitySettings",
    "LogSettings",
    "MailSettings",
    "OAuthSettings",
    "OtpSettings",
    "RateLimitSettings",
    "RelaySettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "SyncSettings",
    "UpstreamSettings",
    "WebhookSettings",
    "development_secret",
    "for_workers",
    "from_environment",
    "is_postgres",
    "load",
    "load_with_origins",
    "previous_secret_path",
    "secret_path",
    "sections",
    "specs",
    "with_secret",
]
