"""What the key-value store refuses (contract relay, section 9.5)."""

from __future__ import annotations

from hapta.kit.errors import NotFound, TooLarge


class KeyNotFound(NotFound):
    """The key was never written, or it was deleted."""

    code = "key_not_found"
    message = "Key not found"


class BatchTooLarge(TooLarge):
    """The values of one batch are more than one update may carry to all clients."""

    code = "batch_too_large"
    message = "The batch is too large"


class ListTooLarge(TooLarge):
    """The values of one list are more than an answer carries: fewer keys fit."""

    code = "list_too_large"
    message = "The values are too large for one list; ask for fewer keys at a time"


class TooManyKeys(TooLarge):
    """The account has as many keys as it may have, deleted ones included."""

    code = "too_many_keys"
    message = "Too many keys"
