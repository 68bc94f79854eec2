"""The lasting keys of an installation, kept in the database under the configured secret (contract identity, section 4.2).

`opened` is called once at each start, before anything else of the auth side. A key that is sealed under the previous secret is
sealed anew under the current one at once, so after one start with both nothing stored needs the previous one any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hapta.db.database import Database, ReadTx, WriteTx
from hapta.identity import person_store
from hapta.identity import root_store as store
from hapta.identity.root_store import OF_AUTH, Root
from hapta.kit.clock import Clock
from hapta.kit.keyring import LASTING, Keyring, Lasting, LastingOfData, first_lasting, key_id
from hapta.kit.seal import KEY_ID_BYTES, BadSeal
from hapta.settings import Settings, SettingsError

REFUSAL = (
    "identity.jwt_secret (JWT_SECRET): what this database holds is sealed under another secret. Set the secret that it was last"
    " started with; to replace that one, give it as identity.jwt_secret_previous (JWT_SECRET_PREVIOUS) beside the new one"
)
"""What is said of a secret that does not open the database."""


class Side(NamedTuple):
    """Which keys, and where they are kept."""

    table: str
    purposes: Sequence[Lasting | LastingOfData]


AUTH = Side(OF_AUTH, LASTING)
"""The other one is `data_roots.DATA`."""


class RootState(NamedTuple):
    """How the lasting keys stand towards the configured secrets."""

    current: int
    """So many are sealed under the current secret."""
    other: int
    """So many under the previous one."""
    foreign: int
    """So many under neither."""
    sealed_at: int
    """When the last of them was sealed, Unix milliseconds; 0: there are none yet."""


def keyring_of(settings: Settings) -> Keyring:
    """The ring of the configured secrets, without lasting keys yet."""
    return Keyring(settings.identity.jwt_secret, settings.identity.jwt_secret_previous)


async def opened(db: Database, clock: Clock, keyring: Keyring, side: Side = AUTH) -> Keyring:
    """The ring with its lasting keys; makes those that are not there yet, out of the current secret.

    What was stored before there were lasting keys was made with keys derived from the secret, so the first value is that.

    Args:
        db: of this side.

    Raises:
        SettingsError: a key is sealed under neither of the secrets.
    """
    lasting = _whole(keyring, await db.read(lambda tx: store.all_roots(tx, side.table), snapshot=False), side)
    if lasting is None:
        lasting = await db.write(lambda tx: _complete(tx, clock.now_ms(), keyring, side))
    return keyring.with_lasting(lasting)


async def state(tx: ReadTx, keyring: Keyring, side: Side = AUTH) -> RootState:
    """Looks, and opens nothing."""
    ids = [key_id(key) for key in keyring.every("root-seal")]
    roots = await store.all_roots(tx, side.table)
    found = [_id_of(root) for root in roots]
    current = found.count(ids[0])
    other = sum(found.count(other) for other in ids[1:])
    sealed_at = max([root.sealed_at for root in roots], default=0)
    return RootState(current, other, len(found) - current - other, sealed_at)


async def has_people_alone(db: Database) -> bool:
    """Whether a database holds people while no auth side has ever worked in it: then that is somewhere else."""
    if await db.read(store.all_roots, snapshot=False):
        return False
    return bool(await db.read(lambda tx: person_store.list_people(tx, "", 1), snapshot=False))


def _whole(keyring: Keyring, roots: Sequence[Root], side: Side) -> dict[str, bytes] | None:
    """The keys, if all that this release needs are there and sealed under the current secret: then nothing is to be written."""
    current = key_id(keyring.current("root-seal"))
    if any(_id_of(root) != current for root in roots):
        return None
    lasting = _opened(keyring, roots)
    return lasting if lasting.keys() >= set(side.purposes) else None


async def _complete(tx: WriteTx, now: int, keyring: Keyring, side: Side) -> dict[str, bytes]:
    # Rows first, locks second, both by purpose: of workers that start together one writes, and the others read what it wrote.
    sealer = keyring.sealer("root-seal")
    for purpose, key in sorted(first_lasting(keyring.secret, side.purposes).items()):
        await store.insert(tx, purpose, sealer.seal(key, _context(purpose)), now, side.table)
    roots = await store.lock(tx, side.table)
    lasting = _opened(keyring, roots)
    current = key_id(keyring.current("root-seal"))
    for root in roots:
        if _id_of(root) != current:
            sealed = sealer.seal(lasting[root.purpose], _context(root.purpose))
            await store.seal(tx, root.purpose, sealed, now, side.table)
    return lasting


def _opened(keyring: Keyring, roots: Sequence[Root]) -> dict[str, bytes]:
    sealer = keyring.sealer("root-seal")
    try:
        return {root.purpose: sealer.open(root.sealed, _context(root.purpose)) for root in roots}
    except BadSeal:
        raise SettingsError([REFUSAL]) from None


def _id_of(root: Root) -> bytes:
    return root.sealed[:KEY_ID_BYTES]


def _context(purpose: str) -> bytes:
    return b"root:" + purpose.encode()
