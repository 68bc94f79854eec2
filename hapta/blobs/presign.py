"""Presigned requests to S3: AWS Signature Version 4 in the query string, with the headers that a client must send signed too.

Pure: a key, a time and a request give an address. Signing the length is what keeps a client from uploading more than it said.
Source: AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SECONDS = 7 * 24 * 3600
"""The longest that a presigned request may be good for."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key to a bucket; `session_token` for temporary ones."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def presigned(
    method: Literal["GET", "PUT"],
    url: str,
    credentials: Credentials,
    region: str,
    *,
    now_ms: int,
    expires_seconds: int,
    headers: Mapping[str, str] | None = None,
) -> str:
    """The address under which a client may send exactly this request until it ends.

    Args:
        url: of the object, its path not yet encoded.
        now_ms: Unix ms; the address is good from here on.
        expires_seconds: at most a week.
        headers: what the client must send, names in lower case.
    """
    when = datetime.fromtimestamp(now_ms // 1000, UTC)
    stamp, day = f"{when:%Y%m%dT%H%M%SZ}", f"{when:%Y%m%d}"
    parts = urlsplit(url)
    path = quote(parts.path, safe="/-._~")
    signed = {"host": parts.netloc, **(headers or {})}
    names = ";".join(sorted(signed))
    scope = f"{day}/{region}/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(max(1, min(expires_seconds, MAX_SECONDS))),
        "X-Amz-SignedHeaders": names,
    }
    if credentials.session_token:
        query["X-Amz-Security-Token"] = credentials.session_token
    listed = "&".join(f"{quote(name, safe='-._~')}={quote(query[name], safe='-._~')}" for name in sorted(query))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    request = "\n".join((method, path, listed, lines, names, "UNSIGNED-PAYLOAD"))
    to_sign = "\n".join((ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_access_key}".encode()
    for step in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"{parts.scheme}://{parts.netloc}{path}?{listed}&X-Amz-Signature={signature}"
