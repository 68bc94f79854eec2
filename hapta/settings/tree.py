"""The frozen tree of all settings: each feature reads its own section and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from hapta.settings.blobs import BlobsSettings
from hapta.settings.files import FilesSettings
from hapta.settings.gateway import GatewaySettings
from hapta.settings.identity import IdentitySettings, MailSettings, OtpSettings, UpstreamSettings, WebhookSettings
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


@dataclass(frozen=True, slots=True)
class Settings:
    """The tree. Frozen: a process has one, made at start and handed down."""

    server: ServerSettings = field(default_factory=ServerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    bus: BusSettings = field(default_factory=BusSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    oauth: OAuthSettings = field(default_factory=OAuthSettings)
    mail: MailSettings = field(default_factory=MailSettings)
    otp: OtpSettings = field(default_factory=OtpSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    blobs: BlobsSettings = field(default_factory=BlobsSettings)
    files: FilesSettings = field(default_factory=FilesSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    ratelimit: RateLimitSettings = field(default_factory=RateLimitSettings)
    log: LogSettings = field(default_factory=LogSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
