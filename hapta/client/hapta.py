"""The public face: one account on one server, and its vaults on this device.

Flow: password -> login split -> session; vault key -> key ring -> `Vault`. Invariant: the password and the secret that
wraps vault keys never leave this process; what is written to disk is written for the owner only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import httpx
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hapta.client import wire
from hapta.client.api import HaptaApi, key_fields
from hapta.client.envelope import NONCE_BYTES, KeyRing, WrappedKey, b64, is_secret_wrapped, new_vault_key, unb64
from hapta.client.errors import ClientError, DecryptFailed, NotLoggedIn, NotThere, VaultBusy, WrongPassphrase
from hapta.client.kdf import LoginSecrets, expand, new_salt, split_password
from hapta.client.keys import KeptKey, KeyAccess, decode_kept, encode_kept, keep
from hapta.client.store import Store, private_dir
from hapta.client.vault import Vault
from hapta.kit.clock import Clock, SystemClock
from hapta.kit.ids import Ids, RandomIds

try:
    import fcntl
except ImportError:  # not on Windows: there two processes must not open one vault
    fcntl = None


class SavedSession(msgspec.Struct, frozen=True, rename="camel"):
    """What lets a later process go on without the password. Keep it like a key: mode 0600, never in a log."""

    url: str
    email: str
    token: str
    auth: str
    """What the server takes for the password; renews the session when the token has expired."""
    wrap: str | None
    """Opens the account's vault keys (base64); None for accounts of the base protocol."""

    def __repr__(self) -> str:
        return f"SavedSession({self.url!r}, {self.email!r})"


@dataclass(frozen=True, slots=True)
class VaultSummary:
    """One vault of the account. `name` is None while this device has not opened a vault with its own passphrase."""

    id: str
    name: str | None
    log_count: int
    bytes: int
    created_at: str
    last_push_at: str | None


@dataclass(frozen=True, slots=True)
class LocalVault:
    """What this device holds of a vault, read without opening it."""

    vault_id: str
    name: str | None
    folder: str | None
    outbox: int
    cursor: int
    quarantined: int
    forked: bool


class Hapta:
    """An account on a Hapta server.

    Use it as an async context manager:

        async with Hapta("https://sync.example.org", state_dir="state") as hapta:
            await hapta.login("ada@example.org", password)
            vault = await hapta.open_vault("notes")
            vault.put("note", "1", {"title": "Hello"})
            await vault.sync()

    Args:
        url: the server.
        state_dir: where this device keeps its vaults; one folder for each account.
        verify: TLS verification: True, or the path of a CA bundle.
        transport: another httpx transport, for tests.
        split: the login split (see `kdf`). False only for accounts that other clients of the protocol made: then the
            server is sent the password itself, and vaults open with it.
    """

    def __init__(
        self,
        url: str,
        *,
        state_dir: str | os.PathLike[str],
        verify: bool | str = True,
        transport: httpx.AsyncBaseTransport | None = None,
        split: bool = True,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.api = HaptaApi(url, verify=verify, transport=transport)
        self.api.renew = self._renew
        self.state_dir = Path(state_dir).absolute()
        self._split = split
        self._clock = clock or SystemClock()
        self._ids = ids or RandomIds()
        self._email = ""
        self._secrets: LoginSecrets | None = None
        self._password: str | None = None
        self._open: list[tuple[Vault, int]] = []

    def __repr__(self) -> str:
        return f"Hapta({self.api.url!r}, account={self._email!r})"

    async def __aenter__(self) -> Hapta:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes connections and vaults. What waits in outboxes stays there for the next time."""
        while self._open:
            vault, lock = self._open.pop()
            vault.close()
            os.close(lock)
        await self.api.close()

    @property
    def device_id(self) -> str:
        """This device's UUID: made once, kept in the state folder."""
        path = self.state_dir / "device"
        with contextlib.suppress(FileNotFoundError):
            return str(uuid.UUID(path.read_text("ascii").strip()))
        private_dir(self.state_dir)
        made = self._ids.uuid()
        write_private(path, made.encode())
        return made

    # --- account ---

    async def register(self, email: str, password: str) -> None:
        """Makes an account and is logged in.

        Raises:
            AlreadyThere: the address is taken.
        """
        if not self._split:
            await self.api.register(email, password, None, self.device_id)
            self._become(email, LoginSecrets(password, b""), password)
            return
        salt = new_salt()
        secrets = await asyncio.to_thread(split_password, password, salt)
        await self.api.register(email, secrets.auth, b64(salt), self.device_id)
        self._become(email, secrets, None)

    async def login(self, email: str, password: str) -> None:
        """Logs in.

        Raises:
            NotLoggedIn: unknown account or wrong password.
        """
        secrets = await self._secrets_for(email, password)
        await self.api.login(email, secrets.auth, self.device_id)
        self._become(email, secrets, None if self._split else password)

    def resume(self, session: SavedSession) -> None:
        """Goes on with a session that `session` gave an earlier process; no request is made."""
        self.api.token = session.token
        wrap = b"" if session.wrap is None else unb64(session.wrap)
        self._become(
            session.email, LoginSecrets(session.auth, wrap), None if session.wrap is not None else session.auth
        )

    def session(self) -> SavedSession:
        """What `resume` needs later."""
        secrets = self._need_login()
        wrap = b64(secrets.wrap) if secrets.wrap else None
        return SavedSession(self.api.url, self._email, self.api.token or "", secrets.auth, wrap)

    async def change_password(self, current: str, new: str, *, keep_plain: bool = False) -> None:
        """Changes the password and, in the same transaction, wraps every vault key anew; other devices must log in.

        An account without the login split gets it by this, so that the server never sees the new password.

        Args:
            keep_plain: leave such an account without it, for other clients that can send only the password itself.

        Raises:
            NotLoggedIn: `current` is wrong.
        """
        before = await self._secrets_for(self._email, current)
        await self.api.login(self._email, before.auth, self.device_id)
        was_split, split = self._split, self._split or not keep_plain
        salt = new_salt()
        after = await asyncio.to_thread(split_password, new, salt) if split else LoginSecrets(new, b"")
        passphrase = None if split else new
        old_access = self._access(None, before, None if was_split else current)
        new_access = self._access(None, after, passphrase)
        rewrapped = await self._rewrap(old_access, new_access)
        await self.api.change_password(before.auth, after.auth, b64(salt) if split else None, rewrapped)
        self._split = split
        self._become(self._email, after, passphrase)
        for vault, _ in self._open:
            own = was_split or vault.access.passphrase != current
            vault.access = replace(new_access, passphrase=vault.access.passphrase if own else passphrase)
        await self._keep_new_keys({str(key["vaultId"]) for key in rewrapped})

    async def _rewrap(self, old: KeyAccess, new: KeyAccess) -> list[dict[str, object]]:
        """All keys that the password opens, under the new one; vaults with their own passphrase are left alone."""
        changed: list[dict[str, object]] = []
        for info in await self.api.vaults():
            try:
                answer = await self.api.vault_key(info.vault_id)
            except NotThere:
                continue
            for key in answer.all:
                wrapped = WrappedKey(key.encrypted_vault_key, key.salt, key.nonce)
                if self._split and not is_secret_wrapped(wrapped):
                    continue
                try:
                    opened = await asyncio.to_thread(old.unwrap, wrapped, key.vault_id, key.key_epoch)
                except WrongPassphrase:
                    if self._split:
                        raise
                    continue  # a vault with a passphrase of its own
                again = await asyncio.to_thread(new.wrap, opened, key.vault_id, key.key_epoch)
                fields = key_fields(key.vault_id, again)
                changed.append({**fields, "version": key.version, "keyEpoch": key.key_epoch})
        return changed

    async def _keep_new_keys(self, vault_ids: set[str]) -> None:
        for vault_id in vault_ids:
            path = self._store_path(vault_id)
            if path.exists():
                answer = await self.api.vault_key(vault_id)
                with contextlib.closing(Store(path)) as store:
                    store.set(keys=encode_kept(keep(answer.all)))

    async def _secrets_for(self, email: str, password: str) -> LoginSecrets:
        if not self._split:
            return LoginSecrets(password, b"")
        try:
            prelogin = await self.api.prelogin(email)
        except NotThere as error:
            # Falling back to sending the password would let any server ask for it by answering 404.
            raise ClientError("This server does not know the login split; see `split=False`") from error
        if prelogin.salt is None:
            raise ClientError("This account was made without the login split; see `split=False`")
        return await asyncio.to_thread(split_password, password, unb64(prelogin.salt))

    def _become(self, email: str, secrets: LoginSecrets, password: str | None) -> None:
        self._email, self._secrets, self._password = email, secrets, password

    def _need_login(self) -> LoginSecrets:
        if self._secrets is None:
            raise NotLoggedIn(401, "not_logged_in", "Log in first")
        return self._secrets

    async def _renew(self) -> str:
        secrets = self._need_login()
        return (await self.api.login(self._email, secrets.auth, self.device_id)).token

    def _access(self, passphrase: str | None, secrets: LoginSecrets, password: str | None) -> KeyAccess:
        return KeyAccess(secret=secrets.wrap or None, passphrase=passphrase if passphrase is not None else password)

    # --- vaults ---

    async def vaults(self) -> list[VaultSummary]:
        """The account's vaults, with names as far as this device can open them."""
        found: list[VaultSummary] = []
        for info in await self.api.vaults():
            name = self._local_name(info.vault_id) or await self._remote_name(info)
            found.append(
                VaultSummary(info.vault_id, name, info.log_count, info.bytes, info.created_at, info.last_push_at)
            )
        return found

    def local_status(self) -> list[LocalVault]:
        """The vaults on this device; needs neither network nor keys."""
        found: list[LocalVault] = []
        for path in sorted(self._store_path("x").parent.glob("*.db")):
            with contextlib.closing(Store(path)) as store:
                found.append(
                    LocalVault(
                        vault_id=path.stem,
                        name=store.get("name") or None,
                        folder=store.get("folder") or None,
                        outbox=store.outbox_size(),
                        cursor=int(store.get("cursor", "0")),
                        quarantined=len(store.quarantined()),
                        forked=store.get("forked") == "1",
                    )
                )
        return found

    async def create_vault(self, name: str, *, passphrase: str | None = None) -> Vault:
        """Makes a vault.

        Args:
            name: sealed before it is sent; the server does not learn it.
            passphrase: a passphrase of the vault's own; without it the account's password opens it.
        """
        secrets = self._need_login()
        vault_id, key = str(uuid.UUID(self._ids.uuid())), new_vault_key()
        access = self._access(passphrase, secrets, self._password)
        wrapped = await asyncio.to_thread(access.wrap, key, vault_id, 0)
        await self.api.store_vault_key(vault_id, wrapped, name=_seal_name(key, vault_id, name))
        kept = [KeptKey(0, wrapped.encrypted_vault_key, wrapped.salt, wrapped.nonce)]
        return self._opened(vault_id, {0: key}, access, kept, name)

    async def open_vault(
        self, name: str, *, passphrase: str | None = None, envelope_version: Literal[1, 2] = 2
    ) -> Vault:
        """Opens a vault by name or id; without the network when this device has opened it before.

        Args:
            passphrase: for a vault with a passphrase of its own.
            envelope_version: 1 to write logs that other clients of the base protocol can read.

        Raises:
            NotThere: the account has no such vault.
            WrongPassphrase: it does not open.
            VaultBusy: another process has it open.
        """
        secrets = self._need_login()
        vault_id, local = await self._find(name)
        access = self._access(passphrase, secrets, self._password)
        kept = self._local_keys(vault_id)
        try:
            keys = await self._unwrap(access, vault_id, kept)
        except WrongPassphrase:
            keys = {}  # the password may have been changed on another device
        if not keys:
            kept = keep((await self.api.vault_key(vault_id)).all)
            keys = await self._unwrap(access, vault_id, kept)
        if local is None:
            local = await self._name_on_server(vault_id, keys)
        return self._opened(vault_id, keys, access, kept, local, envelope_version)

    async def _unwrap(self, access: KeyAccess, vault_id: str, kept: list[KeptKey]) -> dict[int, bytes]:
        keys: dict[int, bytes] = {}
        for key in kept:
            keys[key.key_epoch] = await asyncio.to_thread(access.unwrap, key.wrapped, vault_id, key.key_epoch)
        return keys

    async def delete_vault(self, name: str) -> None:
        """Deletes a vault on the server for all devices, and this device's copy of its rows (not a synced folder)."""
        vault_id, _ = await self._find(name)
        await self.api.delete_vault(vault_id)
        for path in self._store_path(vault_id).parent.glob(f"{vault_id}.*"):
            path.unlink(missing_ok=True)

    def _opened(
        self,
        vault_id: str,
        keys: dict[int, bytes],
        access: KeyAccess,
        kept: list[KeptKey],
        name: str | None,
        envelope_version: Literal[1, 2] = 2,
    ) -> Vault:
        path = self._store_path(vault_id)
        lock = _lock(path.with_suffix(".lock"))
        store = Store(path)
        store.set(keys=encode_kept(kept), vault=vault_id)
        if name is not None:
            store.set(name=name)
        vault = Vault(
            self.api,
            store,
            KeyRing(vault_id, keys),
            access,
            device_id=self.device_id,
            clock=self._clock,
            ids=self._ids,
            envelope_version=envelope_version,
        )
        self._open.append((vault, lock))
        return vault

    def _store_path(self, vault_id: str) -> Path:
        return self.state_dir / "vaults" / f"{vault_id}.db"

    async def _find(self, name: str) -> tuple[str, str | None]:
        """Id and name of a vault; what this device knows comes first, so that it works offline."""
        local = {path.stem: self._local_name(path.stem) for path in self._store_path("x").parent.glob("*.db")}
        for vault_id, known in local.items():
            if name in (vault_id, known):
                return vault_id, known
        with contextlib.suppress(ValueError):
            return str(uuid.UUID(name)), None
        matching = [vault for vault in await self.vaults() if vault.name == name]
        if not matching:
            raise NotThere(404, "vault_not_found", f"There is no vault named {name!r}")
        if len(matching) > 1:
            raise ClientError(f"Several vaults are named {name!r}: name it by id")
        return matching[0].id, name

    def _local(self, vault_id: str, key: str) -> str:
        path = self._store_path(vault_id)
        if not path.exists():
            return ""
        with contextlib.closing(Store(path)) as store:
            return store.get(key)

    def _local_name(self, vault_id: str) -> str | None:
        return self._local(vault_id, "name") or None

    def _local_keys(self, vault_id: str) -> list[KeptKey]:
        return decode_kept(self._local(vault_id, "keys"))

    async def _name_on_server(self, vault_id: str, keys: dict[int, bytes]) -> str | None:
        for info in await self.api.vaults():
            if info.vault_id == vault_id:
                return _open_name(keys.get(0), info)
        return None

    async def _remote_name(self, info: wire.VaultInfo) -> str | None:
        """Opens the name on the server if the account's password opens the vault."""
        if info.encrypted_vault_name is None:
            return None
        access = self._access(None, self._need_login(), self._password)
        try:
            for key in keep((await self.api.vault_key(info.vault_id)).all):
                if key.key_epoch == 0:
                    return _open_name(await asyncio.to_thread(access.unwrap, key.wrapped, info.vault_id, 0), info)
        except (ClientError, NotThere):
            return None
        return None


def _seal_name(key: bytes, vault_id: str, name: str) -> tuple[str, str]:
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(expand(key, "hapta vault name")).encrypt(nonce, name.encode(), uuid.UUID(vault_id).bytes)
    return b64(sealed), b64(nonce)


def _open_name(key: bytes | None, info: wire.VaultInfo) -> str | None:
    if key is None or info.encrypted_vault_name is None or info.vault_name_nonce is None:
        return None
    try:
        cipher = AESGCM(expand(key, "hapta vault name"))
        sealed, nonce = unb64(info.encrypted_vault_name), unb64(info.vault_name_nonce)
        return cipher.decrypt(nonce, sealed, uuid.UUID(info.vault_id).bytes).decode()
    except (InvalidTag, DecryptFailed, UnicodeDecodeError, ValueError):
        return None


def write_private(path: Path, content: bytes) -> None:
    """Writes a file for its owner only, in one step."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _lock(path: Path) -> int:
    """A lock that ends with the process, however it ends."""
    private_dir(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise VaultBusy from error
    return descriptor
