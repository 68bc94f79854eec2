"""A real S3 service for tests: SeaweedFS from its PyPI wheel, on the loopback interface, with one bucket and one key."""

from __future__ import annotations

import secrets
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hapta.blobs.presign import Credentials, presigned
from hapta.settings import BlobsSettings
from tests.servers import Run, Server, free_port

BUCKET = "tests"
REGION = "us-east-1"


class SeaweedServer(Server):
    """SeaweedFS with its S3 gateway; `url` carries the key: `http://key:secret@127.0.0.1:port`."""

    name = "seaweedfs"

    def __init__(self, run: Run, *, port: int | None = None) -> None:
        super().__init__(run, port=port)
        self._key = secrets.token_hex(8)
        self._secret = secrets.token_hex(16)
        self._ports = [free_port() for _ in range(7)]
        (self.folder / "data").mkdir()
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": self._key, "secretKey": self._secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.folder / "s3.json").write_bytes(msgspec.json.encode({"identities": [identity]}))

    @property
    def url(self) -> str:
        return f"http://{self._key}:{self._secret}@127.0.0.1:{self.port}"

    def _spawn(self, log: Any) -> subprocess.Popen[bytes]:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = self._ports
        options = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": str(self.folder / "data"),
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.electionTimeout": "1s",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 256,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 20,
            "volume.preStopSeconds": 0,
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": str(self.folder / "filer.sock"),
            "s3.port": self.port,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": str(self.folder / "s3.sock"),
            "s3.config": str(self.folder / "s3.json"),
        }
        return subprocess.Popen(
            [
                Path(sysconfig.get_path("scripts")) / "weed",
                "server",
                "-filer",
                "-s3",
                *[f"-{name}={value}" for name, value in options.items()],
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )

    def _ready(self) -> bool:
        """Whether the bucket is there and takes an object: its parts find each other only after they have started."""
        return self._put(BUCKET) in (200, 409) and self._put(f"{BUCKET}/ready") == 200

    def _put(self, path: str) -> int:
        url = presigned(
            "PUT",
            f"http://127.0.0.1:{self.port}/{path}",
            Credentials(self._key, self._secret),
            REGION,
            now_ms=time.time_ns() // 1_000_000,
            expires_seconds=60,
        )
        try:
            with urllib.request.urlopen(urllib.request.Request(url, b"", method="PUT"), timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code
        except OSError:
            return 0


def s3_settings(url: str, prefix: str = "", **more: Any) -> BlobsSettings:
    """The settings of a store in the bucket of the server at `url`, below a prefix of its own when none is given."""
    parts = urlsplit(url)
    assert parts.username is not None
    assert parts.password is not None
    return BlobsSettings(
        url=f"s3://{BUCKET}/{prefix or secrets.token_hex(8)}",
        endpoint=f"http://127.0.0.1:{parts.port}",
        region=REGION,
        access_key_id=parts.username,
        secret_access_key=parts.password,
        **more,
    )
