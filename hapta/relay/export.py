"""Everything that the relay keeps of an account, as JSON: for its owner, who may ask for it, read by operators.

All tables of the relay stand here, whoever's noun they are: an export that forgets one would say so to nobody. Bytes are base64,
what clients encrypted stays so, and what opens something elsewhere (tokens of vendors, hashes of passwords) is left out.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hapta.db.database import Database, Param
from hapta.db.statements import index_key, same_id
from hapta.kit.clock import Clock, iso_ms

BATCH = 200


@dataclass(frozen=True, slots=True)
class Part:
    """A table.

    Args:
        key: what orders an account's rows beside the account; empty: there is one row.
        columns: those that are exported, the key's among them.
        left_out: columns that are not.
        owner: the column that names the account.
        short: ids that the table's index holds as `index_key`, of the owner and the key.
    """

    table: str
    key: tuple[str, ...]
    columns: str
    left_out: tuple[str, ...] = ()
    owner: str = "account_id"
    short: tuple[str, ...] = ()


PARTS: Mapping[str, Part] = {
    "account": Part(
        "res_relay_accounts",
        (),
        "settings settings_version first_name last_name username bio show_online_status profile_visibility"
        " friend_request_permission github_id created_at updated_at",
        ("username_key",),
    ),
    "head": Part("res_relay_heads", (), "seq feed_seq"),
    "github": Part("res_relay_github", (), "github_id profile created_at updated_at", ("token",)),
    "vendorTokens": Part("res_relay_vendor_tokens", ("vendor",), "vendor created_at updated_at", ("token",)),
    "sessions": Part(
        "res_relay_sessions",
        ("id",),
        "id tag seq metadata metadata_version agent_state agent_state_version data_encryption_key active last_active_at"
        " stopped_at stopped_reason archived_at archive_reason archive_error changed_seq created_seq created_at updated_at",
    ),
    "messages": Part(
        "res_relay_messages",
        ("session_id", "seq"),
        "session_id seq id local_id content created_at updated_at",
        short=("account_id", "session_id"),
    ),
    "machines": Part(
        "res_relay_machines",
        ("id",),
        "id metadata metadata_version daemon_state daemon_state_version data_encryption_key seq active last_active_at"
        " changed_seq created_seq created_at updated_at",
    ),
    "artifacts": Part(
        "res_relay_artifacts",
        ("id",),
        "id header header_version body body_version data_encryption_key seq changed_seq created_seq created_at updated_at",
    ),
    "accessKeys": Part(
        "res_relay_access_keys",
        ("session_id", "machine_id"),
        "session_id machine_id data data_version created_at updated_at",
    ),
    "usage": Part("res_relay_usage", ("session_id", "key"), "session_id key id data created_at updated_at"),
    "usageLimits": Part("res_relay_usage_limits", (), "data updated_at"),
    "relationships": Part(
        "res_relay_relationships", ("other_id",), "other_id status accepted_at last_notified_at created_at updated_at"
    ),
    "feed": Part("res_relay_feed", ("counter",), "counter id repeat_key body created_at updated_at"),
    "kv": Part("res_relay_kv", ("key",), "key value version created_at updated_at"),
    "pushTokens": Part("res_relay_push_tokens", ("token",), "token id created_at updated_at"),
    "voice": Part("res_relay_voice", ("id",), "id conversation_id started_at duration_seconds"),
    "shares": Part("res_relay_shares", ("session_id", "id"), "session_id id user_id permission shared_at"),
    "sharedWithMe": Part(
        "res_relay_shares",
        ("account_id", "session_id", "id"),
        "account_id session_id id permission shared_at",
        owner="user_id",
    ),
    "shareUrls": Part(
        "res_relay_share_urls",
        ("session_id",),
        "session_id permission expires_at created_at updated_at",
        ("token", "password_hash"),
    ),
    "invitations": Part(
        "res_relay_invitations",
        ("session_id", "id"),
        "session_id id email permission status invited_at expires_at",
        ("token_hash",),
    ),
}
NOT_EXPORTED = frozenset(
    {
        "res_relay_updates",  # what the other tables say already, on its way
        "res_relay_tombstones",
        "res_relay_removed_sessions",
        "res_relay_presence",  # who is connected now
        "res_relay_online",
        "res_relay_departed",  # who is not here any more
    }
)


async def export(db: Database, clock: Clock, account_id: str) -> AsyncIterator[str]:
    """The export as text, piece by piece: `{"account", "exportedAt", "<part>": [rows]...}`.

    Each batch is read by itself, so what changes meanwhile may be in it or not.
    """
    head = json.dumps({"accountId": account_id, "exportedAt": iso_ms(clock.now_ms())})
    yield head.removesuffix("}")
    for name, part in PARTS.items():
        yield f',\n"{name}": ['
        separator = "\n"
        async for row in rows(db, part, account_id):
            yield separator + json.dumps(row, ensure_ascii=False)
            separator = ",\n"
        yield "]"
    yield "}\n"


class Stretch(NamedTuple):
    """Rows of an account that stand together in an index. `same` columns of the key are equal there, so the others order them."""

    condition: str
    params: Mapping[str, Param]
    same: int


WHOLE = Stretch("", {}, 0)


async def rows(db: Database, part: Part, account_id: str) -> AsyncIterator[dict[str, object]]:
    """The rows of an account, batch by batch, in the order of the part's key."""
    columns = part.columns.split()
    left = [WHOLE]
    while left:
        now = left.pop()
        text, params = statement(part, now), {"account": account_id, **now.params}
        found = await db.read(lambda tx, text=text, params=params: tx.fetch_all(text, **params), snapshot=False)
        for row in found:
            yield {name: _plain(value) for name, value in zip(columns, row, strict=True)}
        if part.key and len(found) == BATCH:
            left = after(part, [found[-1][columns.index(name)] for name in part.key])


def statement(part: Part, stretch: Stretch) -> str:
    """Reads the first rows of a stretch: a batch of them, or the only one."""
    columns, owner = ", ".join(part.columns.split()), _equal(part, part.owner, "account")
    order = ", ".join([_key(part, name) for name in part.key[stretch.same :]])
    limit = f" ORDER BY {order} LIMIT {BATCH}" if order else ""
    return f"SELECT {columns} FROM {part.table} WHERE {owner}{stretch.condition}{limit}"  # noqa: S608 - constants


def after(part: Part, last: Sequence[Param]) -> list[Stretch]:
    """What comes after a row, the nearest at the end: rows that share all but the last column of the key, then all but the last two,
    and so on. Each is one stretch of the index, so no batch walks over rows of those before."""
    stretches: list[Stretch] = []
    for same, name in enumerate(part.key):
        equal = "".join([f" AND {_equal(part, part.key[number], f'k{number}')}" for number in range(same)])
        beyond = f" AND {_key(part, name)} > {_key(part, name, f':k{same}')}"
        stretches.append(Stretch(equal + beyond, {f"k{number}": last[number] for number in range(same + 1)}, same))
    return stretches


def _equal(part: Part, column: str, parameter: str) -> str:
    return same_id(column, parameter) if column in part.short else f"{column} = :{parameter}"


def _key(part: Part, column: str, expression: str = "") -> str:
    return index_key(expression or column) if column in part.short else expression or column


def _plain(value: object) -> object:
    return b64encode(value).decode() if isinstance(value, bytes) else value
