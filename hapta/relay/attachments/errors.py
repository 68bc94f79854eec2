"""Errors of attachments (contract relay, section 16)."""

from __future__ import annotations

from hapta.kit.errors import Invalid, NotFound, TooLarge


class AttachmentTooLarge(TooLarge):
    code = "attachment_too_large"
    message = "Attachment too large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(maxSize=max_bytes)


class InvalidReference(Invalid):
    code = "invalid_reference"
    message = "Invalid attachment reference"


class InvalidName(Invalid):
    code = "invalid_name"
    message = "Invalid file name"


class AttachmentNotFound(NotFound):
    code = "attachment_not_found"
    message = "Attachment not found"
