"""The section of the store of bytes: where files and encrypted blobs lie, and how durable they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapta.kit.fields import setting


@dataclass(frozen=True, slots=True)
class BlobsSettings:
    """Where the bytes of files lie: a folder, or a bucket of any store that speaks S3."""

    url: str = setting(
        "",
        "`disk:` (also when empty): the folder `blobs` in the data folder; `disk:///path`: that folder;"
        " `s3://bucket/prefix`: a bucket.",
    )
    sync: Literal["full", "none"] = setting(
        "full",
        "Of a folder. `full`: what was acknowledged survives a power cut. `none`: it survives a crash of the server only.",
    )
    threads: int = setting(8, "Threads of one worker that read and write the folder.", minimum=1, maximum=64)
    endpoint: str = setting(
        "", "Address of the S3 service, such as `https://s3.example.org`; empty: that of the region at AWS."
    )
    region: str = setting("us-east-1", "Region of the bucket.")
    access_key_id: str = setting(
        "",
        "Name of the key to the bucket; empty: the credentials of the machine that the server runs on.",
        hidden="all",
    )
    secret_access_key: str = setting("", "The key to the bucket.", hidden="all")
    session_token: str = setting("", "Token of temporary credentials.", hidden="all")
    path_style: bool = setting(
        True, "Whether the bucket stands in the path of an address (most stores) or in its host name (AWS)."
    )
    timeout_seconds: float = setting(
        20.0, "How long an S3 service may be silent; then requests are answered 503.", minimum=0.5, maximum=600
    )
    retries: int = setting(2, "How often a request to S3 that failed is sent again.", minimum=0, maximum=10)
