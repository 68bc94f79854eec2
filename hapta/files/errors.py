"""What files refuse, in the words that clients of `/v1/uploads` know (contract relay, section 10).

UploadRefused           400 {success: false, error, code}
├── MissingFile             missing-file
├── InvalidType             invalid-type
├── SizeExceeded            size-exceeded
├── InvalidCategory         invalid-category
├── InvalidUpload           invalid-upload: the request or its metadata cannot be read
├── FileInfected            malware-found
└── ChecksumMismatch        checksum-mismatch
QuotaExceeded, TooManyFiles 413
FileNotFound                404
LinkRefused                 403: a download link that was changed, or is over
TooManyUploads              429
OffsetConflict, UploadLocked  409, 423 for tus
ScannerAway                 503
"""

from __future__ import annotations

from hapta.kit.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, TooMany, Unavailable


class UploadRefused(Invalid):
    """The file is not stored."""

    code = "upload-refused"
    message = "The file cannot be stored"

    def __init__(self, message: str | None = None, **details: object) -> None:
        super().__init__(message, success=False, code=self.code, **details)


class MissingFile(UploadRefused):
    code = "missing-file"
    message = "No file provided"


class InvalidType(UploadRefused):
    code = "invalid-type"
    message = "This type of file is not allowed"


class SizeExceeded(UploadRefused):
    code = "size-exceeded"
    message = "The file is too large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The file is larger than {max_bytes} bytes", maxSize=max_bytes)


class InvalidCategory(UploadRefused):
    code = "invalid-category"
    message = "The category is one of avatars, documents and files"


class InvalidUpload(UploadRefused):
    code = "invalid-upload"
    message = "The upload cannot be read"


class FileInfected(UploadRefused):
    """The scanner found something. What it found is for operators, not for whoever tries."""

    code = "malware-found"
    message = "The file was refused by the scanner"


class ChecksumMismatch(UploadRefused):
    code = "checksum-mismatch"
    message = "The bytes do not match their checksum"


class QuotaExceeded(TooLarge):
    code = "quota-exceeded"
    message = "The storage quota is exceeded"


class TooManyFiles(TooLarge):
    code = "too-many-files"
    message = "The account holds too many files"


class FileNotFound(NotFound):
    code = "file-not-found"
    message = "File not found"


class UploadNotFound(NotFound):
    code = "upload-not-found"
    message = "Upload not found"


class NoDirectAccess(NotFound):
    """The store has no way for clients of its own: it is a folder of the server."""

    code = "no-direct-access"
    message = "The file storage takes no direct uploads"


class LinkRefused(Forbidden):
    code = "link-refused"
    message = "The link is not valid, or no longer"


class TooManyUploads(TooMany):
    code = "too-many-uploads"
    message = "Too many uploads at a time"


class OffsetConflict(Conflict):
    """A piece begins elsewhere than the upload ends."""

    code = "offset-conflict"
    message = "The upload ends elsewhere"

    def __init__(self, offset: int) -> None:
        super().__init__(offset=offset)
        self.offset = offset


class UploadLocked(Conflict):
    code = "upload-locked"
    message = "Another part of this upload is arriving"


class UploadLost(Unavailable):
    """The server lost its hold on the upload while the bytes arrived; nothing was stored."""

    code = "upload-lost"
    message = "The upload was interrupted; send it again"


class ScannerAway(Unavailable):
    code = "scanner-unavailable"
    message = "The scanner does not answer"
