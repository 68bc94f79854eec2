"""Opens the store of bytes that the settings name. The only place that knows which ones there are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from hapta.blobs.blobs import Blobs, checked_key
from hapta.kit.clock import Clock
from hapta.kit.errors import Invalid
from hapta.kit.ids import Ids
from hapta.settings import BlobsSettings


class BadBlobsUrl(Invalid):
    """The setting `blobs.url` names no store that we know."""

    code = "bad_blobs_url"


async def open_blobs(settings: BlobsSettings, data_dir: Path, clock: Clock, ids: Ids) -> Blobs:
    """Opens the store.

    Args:
        settings: `url` is empty or `disk:` (the folder `blobs` in `data_dir`), `disk:///path`, or `s3://bucket/prefix`.
        data_dir: where the folder lies when no other one is named.

    Raises:
        BadBlobsUrl: `blobs.url` names no store, or half of a key is missing.
        BlobsAway: the folder cannot be made or written. A bucket is first asked when it is first used.
    """
    parts = urlsplit(settings.url)
    match parts.scheme:
        case "disk" | "" if parts.scheme or not settings.url:
            from hapta.blobs.disk import open_disk

            if parts.netloc or (parts.path and not parts.path.startswith("/")):
                raise BadBlobsUrl("blobs.url: use disk: or disk:///absolute/path")
            root = Path(unquote(parts.path)) if parts.path else data_dir / "blobs"
            return await open_disk(root, ids, sync=settings.sync, threads=settings.threads)
        case "s3":
            from hapta.blobs.presign import Credentials
            from hapta.blobs.s3 import Bucket, open_s3  # takes some megabytes that a server with a disk need not hold

            prefix = unquote(parts.path).strip("/")
            try:
                checked_key(prefix or "none")
            except ValueError:
                raise BadBlobsUrl("blobs.url: a prefix is made of letters, digits, '.', '_', '-' and '/'") from None
            if not parts.netloc or "@" in parts.netloc:
                raise BadBlobsUrl("blobs.url: use s3://bucket/prefix; the key is blobs.access_key_id")
            if bool(settings.access_key_id) != bool(settings.secret_access_key):
                raise BadBlobsUrl("blobs.access_key_id and blobs.secret_access_key belong together")
            credentials = None
            if settings.access_key_id:
                credentials = Credentials(settings.access_key_id, settings.secret_access_key, settings.session_token)
            bucket = Bucket(
                parts.netloc,
                prefix,
                settings.endpoint,
                settings.region,
                credentials,
                settings.path_style,
                settings.timeout_seconds,
                settings.retries,
            )
            return await open_s3(bucket, clock, ids)
        case other:
            raise BadBlobsUrl(f"blobs.url: unknown scheme {other!r}; use disk:, disk:///path or s3://bucket/prefix")
