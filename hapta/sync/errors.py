"""What can go wrong in sync, in the words of the contract.

Invalid            UnknownKeyEpoch, BadImport, BadSnapshot, HashMismatch, BadHash
NotFound           VaultKeyNotFound, VaultNotFound, SnapshotNotFound, DeviceNotFound, BlobNotFound
Conflict           VaultKeyExists, VaultKeyChanged, SnapshotExists
Gone               SnapshotRequired
TooLarge           PushTooLarge, QuotaExceeded, TooManyVaults, TooManyDevices, TooManyKeyEpochs
Unauthenticated    AccountGone
Unavailable        BlobGivenUp
"""

from __future__ import annotations

from hapta.kit.errors import Conflict, Gone, Invalid, NotFound, TooLarge, Unauthenticated, Unavailable


class UnknownKeyEpoch(Invalid):
    """A log names a key epoch for which the vault has no stored key."""

    code = "unknown_key_epoch"
    message = "A log uses a key epoch that has no stored vault key"


class BadImport(Invalid):
    """A line of an import is not what an export writes."""

    code = "bad_import"
    message = "The import is not valid"


class BadSnapshot(Invalid):
    """A snapshot claims more than the vault has."""

    code = "bad_snapshot"
    message = "The snapshot is newer than the vault's logs"


class BadHash(Invalid):
    code = "bad_hash"
    message = "A blob is named by the SHA-256 of its bytes, as 64 hexadecimal digits"


class HashMismatch(Invalid):
    """The bytes are not those that the hash stands for; none of them was kept."""

    code = "hash_mismatch"
    message = "The content does not match its hash"


class VaultKeyNotFound(NotFound):
    code = "vault_key_not_found"
    message = "Vault key not found"


class VaultNotFound(NotFound):
    code = "vault_not_found"
    message = "Vault not found"


class SnapshotNotFound(NotFound):
    code = "snapshot_not_found"
    message = "Snapshot not found"


class DeviceNotFound(NotFound):
    code = "device_not_found"
    message = "Device not found"


class BlobNotFound(NotFound):
    code = "blob_not_found"
    message = "Blob not found"


class VaultKeyExists(Conflict):
    code = "vault_key_exists"
    message = "Vault key already exists for this vault"


class VaultKeyChanged(Conflict):
    """Another device replaced the wrapped key first; `details` name the version that is stored now."""

    code = "version_conflict"
    message = "The vault key was changed by another device"


class SnapshotExists(Conflict):
    """The snapshot id was used before, for another state."""

    code = "snapshot_exists"
    message = "A snapshot with this id exists already"


class SnapshotRequired(Gone):
    """The logs after this cursor were compacted away: load the snapshot, then pull after `uptoSequence`."""

    code = "snapshot_required"
    message = "These logs are part of a snapshot now"


class PushTooLarge(TooLarge):
    """Past a limit of one request; `limits` names them all."""

    message = "The request is over a limit"


class QuotaExceeded(TooLarge):
    """The account's quota does not hold this; pulls and deletes still work."""

    code = "quota_exceeded"
    message = "The storage quota is exceeded"


class TooManyVaults(TooLarge):
    """The account has as many vaults as it may; those that it has go on working. `limits` says how many."""

    code = "too_many_vaults"
    message = "The account has too many vaults"


class TooManyDevices(TooLarge):
    """The account has as many devices as are kept: this one may push and pull, but is waited for nowhere."""

    code = "too_many_devices"
    message = "The account has too many devices"


class TooManyKeyEpochs(TooLarge):
    """The vault's key was rotated as often as it may be."""

    code = "too_many_key_epochs"
    message = "The vault has too many keys"


class AccountGone(Unauthenticated):
    """The account was deleted while its request was under way."""

    code = "invalid_token"
    message = "Unauthorized - Invalid token"


class BlobGivenUp(Unavailable):
    """The upload took so long that it was given up; nothing was stored."""

    code = "blob_given_up"
    message = "The upload took too long; send it again"
