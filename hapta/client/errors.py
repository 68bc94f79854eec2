"""What can go wrong on a client. Everything a caller may want to catch is here, drawn as one tree.

HaptaError (kit/errors.py)
└── ClientError
    ├── HaptaApiError           the server answered with an error: status, code, message, retry_after
    │   ├── NotLoggedIn             401: no token, or one that no longer counts
    │   ├── NotThere                404
    │   ├── AlreadyThere            409
    │   ├── SnapshotRequired        410 snapshot_required: older logs were folded into a snapshot
    │   ├── PayloadTooLarge         413, and QuotaExceeded below it
    │   └── TryLater                429 or 503, after the bounded retries were used up
    ├── ServerUnreachable       no answer: the network, the name, or TLS
    ├── WrongPassphrase         the vault key does not open
    ├── DecryptFailed           a log does not open: altered, moved, or under a key we do not hold
    ├── ClockDrift              a stamp lies too far in the future
    ├── HistoryForked           the server's history is not the one we saw before
    ├── VaultBusy               another process of this device has the vault open
    ├── UnsafePath              a peer named a file outside the folder
    └── FolderMissing           the folder (or its marker) is gone: refuse to call that "everything deleted"
"""

from __future__ import annotations

from hapta.kit.errors import HaptaError


class ClientError(HaptaError):
    """Base of everything the client raises on purpose."""

    code = "client_error"
    message = "The client could not do this"


class HaptaApiError(ClientError):
    """The server refused.

    Args:
        status: HTTP status.
        code: the server's stable, machine-readable code, or "" when it sent none.
        message: the server's sentence for people.
        retry_after: seconds after which another try makes sense, when the server said so.
        body: the decoded error body; never holds a secret of ours.
    """

    code = "api_error"

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: float | None = None,
        body: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.api_code = code
        self.retry_after = retry_after
        self.body: dict[str, object] = body or {}

    def __str__(self) -> str:
        return f"{self.message} (HTTP {self.status}{', ' + self.api_code if self.api_code else ''})"


class NotLoggedIn(HaptaApiError):
    """401."""


class NotThere(HaptaApiError):
    """404."""


class AlreadyThere(HaptaApiError):
    """409."""


class SnapshotRequired(HaptaApiError):
    """410 with `snapshot_required`: load the snapshot, then pull after it."""


class PayloadTooLarge(HaptaApiError):
    """413."""


class QuotaExceeded(PayloadTooLarge):
    """413 with `quota_exceeded`: smaller requests would not help."""


class TryLater(HaptaApiError):
    """429 or 503 to the end."""


class ServerUnreachable(ClientError):
    """No answer came."""

    code = "server_unreachable"
    message = "The server cannot be reached"


class WrongPassphrase(ClientError):
    """The vault key does not open with this password or passphrase."""

    code = "wrong_passphrase"
    message = "This password does not open the vault"


class DecryptFailed(ClientError):
    """A sealed log does not open."""

    code = "decrypt_failed"
    message = "This log cannot be decrypted"


class ClockDrift(ClientError):
    """A stamp lies further in the future than the allowed difference of clocks."""

    code = "clock_drift"
    message = "A timestamp lies too far in the future"


class HistoryForked(ClientError):
    """The server left out, reordered or took back logs that it had acknowledged (docs/sync.md, history check)."""

    code = "history_forked"
    message = "The server's history does not match what this device saw before"


class VaultBusy(ClientError):
    """Another process has this vault open."""

    code = "vault_busy"
    message = "This vault is open in another process"


class UnsafePath(ClientError):
    """A path that would leave the folder, or that the folder keeps for itself."""

    code = "unsafe_path"
    message = "This path is not allowed"


class FolderMissing(ClientError):
    """The synced folder is not there (an unmounted disk looks just like that)."""

    code = "folder_missing"
    message = "The synced folder or its marker file is missing; nothing was deleted"
