"""The section of files: how large and how many, how pictures are treated, who scans them, and for how long things are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapta.kit.fields import setting

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FilesSettings:
    """Uploads and downloads. Where the bytes lie is said in `[blobs]`; the quota of an account is the one of `[sync]`."""

    max_avatar_bytes: int = setting(5 * MEBIBYTE, "Largest picture of the category `avatars`.", minimum=1)
    max_document_bytes: int = setting(50 * MEBIBYTE, "Largest file of the category `documents`.", minimum=1)
    max_file_bytes: int = setting(100 * MEBIBYTE, "Largest file of the category `files`.", minimum=1)
    max_attachment_bytes: int = setting(10 * MEBIBYTE, "Largest encrypted attachment of a relay session.", minimum=1)
    types: tuple[str, ...] = setting(
        (
            "image/jpeg", "image/png", "image/gif", "image/webp", "image/svg+xml",
            "application/pdf", "text/plain", "application/json", "text/markdown",
        ),
        "Media types that may be uploaded. What a file is, its content says; the type that the client names must agree.",
    )  # fmt: skip
    max_files: int = setting(100_000, "Files of one account.", minimum=1)
    max_uploads: int = setting(4, "Uploads of one account that one worker takes at a time.", minimum=1)
    max_unfinished: int = setting(20, "Unfinished resumable and direct uploads of one account.", minimum=1)
    upload_keep_seconds: int = setting(
        86_400, "An unfinished resumable upload goes when nothing was added for so long.", minimum=60
    )
    lease_seconds: int = setting(
        120, "An upload whose server died is cleaned up after so long.", minimum=10, maximum=86_400
    )
    sweep_seconds: float = setting(30.0, "Pause between two rounds of cleaning up.", minimum=0.1)
    orphan_seconds: int = setting(
        21_600, "Pause between two searches of the whole store for bytes that belong to no file.", minimum=1
    )
    orphan_age_seconds: int = setting(
        3600, "Bytes without a file are removed when they are older than this.", minimum=60
    )

    image_pixels: int = setting(
        25_000_000,
        "Pictures with more pixels are stored without thumbhash, and are refused as avatars. Decoding takes some 8 bytes a pixel.",
        minimum=1,
    )
    max_image_pixels: int = setting(
        200_000_000,
        "Pictures that claim more pixels are refused: they are made to exhaust whoever opens them.",
        minimum=1,
    )
    max_image_bytes: int = setting(
        32 * MEBIBYTE, "Larger pictures are stored without being decoded, and so without thumbhash.", minimum=1
    )
    image_threads: int = setting(2, "Threads of one worker that decode pictures.", minimum=1, maximum=32)
    avatar_pixels: int = setting(512, "Side of a stored avatar; larger ones are scaled down.", minimum=16, maximum=4096)

    link_seconds: int = setting(3600, "Life of a download link, unless its maker says otherwise.", minimum=1)
    max_link_seconds: int = setting(7 * 86_400, "Longest life of a download link.", minimum=1)
    direct_seconds: int = setting(
        3600, "Life of an address for direct upload to S3, and of one for direct download.", minimum=60, maximum=604_800
    )
    download_redirect: bool = setting(
        False, "Send downloads on to S3 (307) in place of passing the bytes on; types that can hold scripts never."
    )

    scanner: str = setting(
        "", "A ClamAV daemon: `tcp://127.0.0.1:3310` or `unix:///run/clamav/clamd.ctl`. Empty: files are not scanned."
    )
    scanner_away: Literal["refuse", "accept"] = setting(
        "refuse", "What becomes of uploads while the scanner does not answer: 503, or stored without a scan."
    )
    scanner_seconds: float = setting(30.0, "How long the scanner may be silent.", minimum=0.1)
    quarantine_seconds: int = setting(
        30 * 86_400, "Files that the scanner found are kept apart for so long.", minimum=0
    )
