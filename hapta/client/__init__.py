"""Hapta's client: end-to-end-encrypted vaults that sync through a server which cannot read them.

    async with Hapta("https://sync.example.org", state_dir="state") as hapta:
        await hapta.login("ada@example.org", password)
        vault = await hapta.open_vault("notes")
        vault.put("note", "1", {"title": "Hello"})
        await vault.sync()

Needs httpx, websockets, cryptography and msgspec, nothing of the server. See docs/client.md.
"""

from __future__ import annotations

from hapta.client.api import HaptaApi
from hapta.client.errors import (
    AlreadyThere,
    ClientError,
    ClockDrift,
    DecryptFailed,
    FolderMissing,
    HaptaApiError,
    HistoryForked,
    NotLoggedIn,
    NotThere,
    PayloadTooLarge,
    QuotaExceeded,
    ServerUnreachable,
    SnapshotRequired,
    TryLater,
    UnsafePath,
    VaultBusy,
    WrongPassphrase,
)
from hapta.client.files import Folder, FolderReport
from hapta.client.hapta import Hapta, SavedSession, VaultSummary
from hapta.client.live import Hints
from hapta.client.vault import SyncReport, Vault, VaultStatus

__all__ = [
    "AlreadyThere",
    "ClientError",
    "ClockDrift",
    "DecryptFailed",
    "Folder",
    "FolderMissing",
    "FolderReport",
    "Hapta",
    "HaptaApi",
    "HaptaApiError",
    "Hints",
    "HistoryForked",
    "NotLoggedIn",
    "NotThere",
    "PayloadTooLarge",
    "QuotaExceeded",
    "SavedSession",
    "ServerUnreachable",
    "SnapshotRequired",
    "SyncReport",
    "TryLater",
    "UnsafePath",
    "Vault",
    "VaultBusy",
    "VaultStatus",
    "VaultSummary",
    "WrongPassphrase",
]
