"""A thin typed client for the HTTP API: one method an endpoint, answers as structs, refusals as exceptions.

It waits out 429 and 503 for a bounded time, logs in again once on 401, and repeats a request whose connection broke only
where repeating is harmless. Invariant: no password, token or key is ever put into a log, a message or a `repr`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from hapta.client import wire
from hapta.client.envelope import SealedLog, WrappedKey
from hapta.client.errors import (
    AlreadyThere,
    HaptaApiError,
    NotLoggedIn,
    NotThere,
    PayloadTooLarge,
    QuotaExceeded,
    ServerUnreachable,
    SnapshotRequired,
    TryLater,
)

T = TypeVar("T")
MAX_TRIES = 8
MAX_PAUSE_SECONDS = 60.0
Renew = Callable[[], Awaitable[str]]
Sleep = Callable[[float], Awaitable[None]]


class HaptaApi:
    """The endpoints of one server, as one account.

    Args:
        url: base address, for example `https://sync.example.org`.
        token: session token of an earlier login.
        timeout_seconds: per request; long polls add their own waiting time.
        verify: TLS verification as httpx understands it: True, or a path to a CA bundle.
        transport: another transport, for tests of faulty networks.
        sleep: how to wait between tries.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_seconds: float = 30.0,
        verify: bool | str = True,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.verify = verify
        self.renew: Renew | None = None
        """Logs in again and gives a new token; set by whoever holds the secrets for it."""
        self._timeout = timeout_seconds
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=self.url, timeout=timeout_seconds, verify=verify, transport=transport, follow_redirects=False
        )

    def __repr__(self) -> str:
        return f"HaptaApi({self.url!r})"

    async def close(self) -> None:
        await self._http.aclose()

    # --- accounts ---

    async def register(
        self, email: str, secret: str, auth_salt: str | None = None, device_id: str | None = None
    ) -> wire.Session:
        """Makes an account. `secret` is what the server takes for the password; `auth_salt` base64 of the split's salt.

        Raises:
            AlreadyThere: the e-mail address is taken.
        """
        body = {"email": email, "password": secret}
        if auth_salt is not None:
            body["authSalt"] = auth_salt
        if device_id is not None:
            body["deviceId"] = device_id
        session = await self._call("POST", "/auth/register", wire.Session, body, public=True, repeatable=False)
        self.token = session.token
        return session

    async def prelogin(self, email: str) -> wire.Prelogin:
        """The account's salt; unknown accounts get a constant made-up one."""
        return await self._call("POST", "/auth/prelogin", wire.Prelogin, {"email": email}, public=True)

    async def login(self, email: str, secret: str, device_id: str | None = None) -> wire.Session:
        """Logs in and keeps the token.

        Raises:
            NotLoggedIn: unknown account or wrong password; the server does not say which.
        """
        body = {"email": email, "password": secret}
        if device_id is not None:
            body["deviceId"] = device_id
        session = await self._call("POST", "/auth/login", wire.Session, body, public=True)
        self.token = session.token
        return session

    async def change_password(
        self, current: str, new: str, auth_salt: str | None, vault_keys: Sequence[dict[str, object]]
    ) -> dict[str, Any]:
        """Changes the password and replaces the wrapped keys in one transaction; all other tokens die."""
        body: dict[str, object] = {"currentPassword": current, "newPassword": new, "vaultKeys": list(vault_keys)}
        if auth_salt is not None:
            body["authSalt"] = auth_salt
        answer = await self._call("PUT", "/auth/password", dict[str, Any], body, repeatable=False)
        if isinstance(answer.get("token"), str):
            self.token = answer["token"]
        return answer

    async def me(self) -> dict[str, Any]:
        return await self._call("GET", "/auth/me", dict[str, Any])

    async def logout_all(self) -> None:
        await self._call("POST", "/auth/logout-all", dict[str, Any], {})

    async def devices(self) -> list[dict[str, Any]]:
        return (await self._call("GET", "/devices", dict[str, Any])).get("devices", [])

    async def forget_device(self, device_id: str) -> None:
        """Revokes the tokens of one device."""
        await self._call("DELETE", f"/devices/{quote(device_id, safe='')}", dict[str, Any])

    async def quota(self) -> dict[str, Any]:
        return await self._call("GET", "/sync/quota", dict[str, Any])

    async def export(self) -> AsyncIterator[bytes]:
        """Everything the account has on the server, as NDJSON; ciphertexts stay ciphertexts."""
        request = self._http.build_request("GET", "/export", headers=self._headers())
        response = await self._send(request, stream=True)
        try:
            if response.status_code >= 400:
                await response.aread()
                raise _refusal(response)
            async for block in response.aiter_bytes():
                yield block
        finally:
            await response.aclose()

    async def import_(self, lines: AsyncIterator[bytes]) -> dict[str, Any]:
        """Feeds an export to this account; what is there already is skipped."""
        headers = {**self._headers(), "Content-Type": "application/x-ndjson"}
        response = await self._send(self._http.build_request("POST", "/import", content=lines, headers=headers))
        if response.status_code >= 400:
            raise _refusal(response)
        return msgspec.json.decode(response.content, type=dict[str, Any])

    # --- vaults ---

    async def vaults(self) -> list[wire.VaultInfo]:
        return (await self._call("GET", "/sync/vaults", wire.VaultList)).vaults

    async def vault_key(self, vault_id: str) -> wire.VaultKeyAnswer:
        """The wrapped keys of a vault.

        Raises:
            NotThere: the account has no key for it.
        """
        return await self._call("GET", f"/sync/vault-key/{vault_id}", wire.VaultKeyAnswer)

    async def store_vault_key(
        self, vault_id: str, wrapped: WrappedKey, key_epoch: int = 0, name: tuple[str, str] | None = None
    ) -> None:
        """Stores a wrapped key; `name` is the sealed vault name and its nonce.

        Raises:
            AlreadyThere: this epoch of the vault has one.
        """
        body = key_fields(vault_id, wrapped)
        if key_epoch:
            body["keyEpoch"] = key_epoch
        if name is not None:
            body["encryptedVaultName"], body["vaultNameNonce"] = name
        await self._call("POST", "/sync/vault-key", dict[str, Any], body)

    async def replace_vault_key(self, vault_id: str, wrapped: WrappedKey, version: int, key_epoch: int = 0) -> None:
        """Replaces a wrapped key if it still is at `version`.

        Raises:
            AlreadyThere: another device replaced it first.
        """
        body = {**key_fields(vault_id, wrapped), "version": version, "keyEpoch": key_epoch}
        await self._call("PUT", f"/sync/vault-key/{vault_id}", dict[str, Any], body, repeatable=False)

    async def delete_vault(self, vault_id: str) -> None:
        await self._call("DELETE", f"/sync/vault/{vault_id}", dict[str, Any])

    # --- logs ---

    async def push(self, vault_id: str, logs: Sequence[SealedLog], device_id: str | None = None) -> wire.PushAnswer:
        """Pushes logs, all or none. Safe to repeat: the ids make the server store each once.

        Raises:
            PayloadTooLarge: over a limit of one request; QuotaExceeded: over the account's.
        """
        body: dict[str, object] = {"vaultId": vault_id, "logs": [_log_fields(log) for log in logs]}
        if device_id is not None:
            body["deviceId"] = device_id
        return await self._call("POST", "/sync/push", wire.PushAnswer, body)

    async def pull(
        self,
        vault_id: str,
        after: int = 0,
        *,
        limit: int = 1000,
        exclude_device: str | None = None,
        wait_ms: int = 0,
    ) -> wire.PullAnswer:
        """One page after the cursor `after`.

        Args:
            limit: logs in the page, 1 to 1,000.
            exclude_device: leaves out what this device pushed.
            wait_ms: when there is nothing, how long the server may wait for something (at most 55,000).

        Raises:
            SnapshotRequired: the logs after this cursor were folded into a snapshot.
        """
        body: dict[str, object] = {"vaultId": vault_id, "afterSequence": after, "limit": limit}
        if exclude_device is not None:
            body["excludeDeviceId"] = exclude_device
        if wait_ms:
            body["waitMs"] = wait_ms
        return await self._call("POST", "/sync/pull", wire.PullAnswer, body, extra_seconds=wait_ms / 1000)

    async def acknowledge(self, vault_id: str, device_id: str, sequence: int) -> None:
        """Tells the server how far this device has read; compaction waits for it."""
        body: dict[str, object] = {"vaultId": vault_id, "deviceId": device_id, "sequence": sequence}
        await self._call("POST", "/sync/ack", dict[str, Any], body)

    async def snapshot(self, vault_id: str) -> wire.SnapshotInfo:
        """The newest snapshot with its parts.

        Raises:
            NotThere: there is none.
        """
        return await self._call("GET", f"/sync/snapshot/{vault_id}", wire.SnapshotInfo)

    async def put_snapshot(self, vault_id: str, body: dict[str, object]) -> None:
        """Stores a snapshot: `snapshotId`, `uptoSequence`, `parts`, `keyEpoch`, `deviceId`."""
        await self._call("PUT", f"/sync/snapshot/{vault_id}", dict[str, Any], body)

    # --- blobs ---

    async def features(self) -> list[str]:
        """What the server says it can do."""
        return (await self._call("GET", "/", wire.Health, public=True)).features

    async def missing_blobs(self, vault_id: str, hashes: Sequence[str]) -> list[str]:
        """Those of `hashes` (at most 1000) that the vault does not have on the server."""
        body = {"hashes": list(hashes)}
        return (await self._call("POST", f"/blobs/{vault_id}/missing", wire.Missing, body)).missing

    async def put_blob(self, vault_id: str, sha256: str, content: bytes) -> None:
        """Stores a ciphertext under its hash. Safe to repeat.

        Raises:
            QuotaExceeded, PayloadTooLarge: it was not stored.
        """
        await self._answer("PUT", f"/blobs/{vault_id}/{sha256}", content, "application/octet-stream")

    async def blob(self, vault_id: str, sha256: str) -> bytes:
        """A ciphertext. Whether it is the one that was asked for is for the caller to see.

        Raises:
            NotThere: the server does not have it.
        """
        return (await self._answer("GET", f"/blobs/{vault_id}/{sha256}")).content

    # --- the one way out ---

    def _headers(self, public: bool = False) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token and not public else {}

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        body: dict[str, Any] | None = None,
        *,
        public: bool = False,
        repeatable: bool = True,
        extra_seconds: float = 0.0,
    ) -> T:
        content = None if body is None else msgspec.json.encode(body)
        response = await self._answer(
            method, path, content, public=public, repeatable=repeatable, extra_seconds=extra_seconds
        )
        return _decode(response, answer)

    async def _answer(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        media_type: str = "application/json",
        *,
        public: bool = False,
        repeatable: bool = True,
        extra_seconds: float = 0.0,
    ) -> httpx.Response:
        renewed = public or self.renew is None
        for attempt in range(MAX_TRIES):
            headers = self._headers(public)
            if content is not None:
                headers["Content-Type"] = media_type
            timeout = self._timeout + extra_seconds
            request = self._http.build_request(method, path, content=content, headers=headers, timeout=timeout)
            response = await self._send(request, repeatable=repeatable)
            if response.status_code < 400:
                return response
            refusal = _refusal(response)
            if isinstance(refusal, NotLoggedIn) and not renewed and self.renew is not None:
                renewed = True
                self.token = await self.renew()
            elif isinstance(refusal, TryLater) and attempt + 1 < MAX_TRIES:
                await self._sleep(_pause(refusal.retry_after, attempt))
            else:
                raise refusal
        raise AssertionError("the last try returns or raises")

    async def _send(self, request: httpx.Request, *, repeatable: bool = False, stream: bool = False) -> httpx.Response:
        for again in (repeatable, False):
            try:
                return await self._http.send(request, stream=stream)
            except httpx.ConnectError as error:
                raise ServerUnreachable(f"Cannot connect to {self.url}") from error
            except httpx.TransportError as error:
                # A kept-alive connection that the server closed meanwhile looks like this; once is worth a new try.
                if not again:
                    raise ServerUnreachable(f"Lost the connection to {self.url} ({type(error).__name__})") from error
        raise AssertionError("the last try returns or raises")


def key_fields(vault_id: str, wrapped: WrappedKey) -> dict[str, Any]:
    """A wrapped key as requests carry it."""
    return {
        "vaultId": vault_id,
        "encryptedVaultKey": wrapped.encrypted_vault_key,
        "salt": wrapped.salt,
        "nonce": wrapped.nonce,
    }


def _log_fields(log: SealedLog) -> dict[str, object]:
    fields: dict[str, object] = {
        "encryptedData": log.encrypted_data,
        "nonce": log.nonce,
        "haexTimestamp": log.haex_timestamp,
    }
    if log.id is not None:
        fields["id"] = log.id
    if log.key_epoch:
        fields["keyEpoch"] = log.key_epoch
    return fields


def _pause(retry_after: float | None, attempt: int) -> float:
    """At least what the server asked for, else doubling from a quarter second; jitter keeps a crowd apart."""
    wanted = retry_after if retry_after is not None else 0.25 * 2**attempt
    return min(wanted, MAX_PAUSE_SECONDS) * (1 + random.random() / 4)


def _decode(response: httpx.Response, answer: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=answer)
    except (ValueError, RecursionError) as error:  # bad bytes or bad JSON, also one that nests too deep
        raise HaptaApiError(response.status_code, "bad_answer", f"Unexpected answer of the server: {error}") from error


def _refusal(response: httpx.Response) -> HaptaApiError:
    status = response.status_code
    try:
        body = msgspec.json.decode(response.content, type=dict[str, Any])
    except (ValueError, RecursionError):
        body = {}
    text, code = body.get("error"), body.get("code")
    message = text if isinstance(text, str) and text else f"The server answered {status}"
    if isinstance(issues := body.get("issues"), list) and issues:
        message += f": {issues[0]}"
    kind = _kind(status, code)
    return kind(status, code if isinstance(code, str) else "", message, _retry_after(response), body)


def _kind(status: int, code: object) -> type[HaptaApiError]:
    if status == 413:
        return QuotaExceeded if code == "quota_exceeded" else PayloadTooLarge
    if status == 410 and code == "snapshot_required":
        return SnapshotRequired
    kinds = {401: NotLoggedIn, 404: NotThere, 409: AlreadyThere, 429: TryLater, 503: TryLater}
    return kinds.get(status, HaptaApiError)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
