"""The collections of the PocketBase that tests talk to: some of every kind of field, of rule and of relation.

Ids are fixed, so that a test may name a collection by either of its names.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

OWN = "owner = @request.auth.id"
SIGNED_IN = '@request.auth.id != ""'
GIB = 1024**3


def _rules(
    read: str | None, write: str | None, *, list: str | None = "-", create: str | None = "-", delete: str | None = "-"
) -> Json:
    """Rules of a collection; `None` = superusers only, "" = everybody. `list`, `create`, `delete` differ where given."""
    return {
        "listRule": read if list == "-" else list,
        "viewRule": read,
        "createRule": write if create == "-" else create,
        "updateRule": write,
        "deleteRule": write if delete == "-" else delete,
    }


def _relation(name: str, to: str, *, many: int = 1, cascade: bool = False, required: bool = False) -> Json:
    return {
        "name": name, "type": "relation", "collectionId": to, "maxSelect": many, "minSelect": 0,
        "cascadeDelete": cascade, "required": required,
    }  # fmt: skip


def _file(name: str, **options: Any) -> Json:
    return {"name": name, "type": "file", "maxSelect": 1, "maxSize": 0, **options}


def _dates() -> list[Json]:
    return [
        {"name": "created", "type": "autodate", "onCreate": True, "onUpdate": False},
        {"name": "updated", "type": "autodate", "onCreate": True, "onUpdate": True},
    ]


def _base(name: str, rules: Json, fields: list[Json], indexes: list[str] | None = None) -> Json:
    return {
        "id": f"pbc_{name}", "name": name, "type": "base", "indexes": indexes or [],
        "fields": [*fields, *_dates()], **rules,
    }  # fmt: skip


USERS = "_pb_users_auth_"
_PASSWORD = {
    "name": "password",
    "type": "password",
    "hidden": True,
    "required": True,
    "system": True,
    "min": 8,
    "cost": 4,
}
_IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"]

# Signed in they see each other, but an e-mail address only where its owner shows it. The record's own `two_factors` asks
# for a second factor at login. The cost of passwords is the lowest there is.
_USERS: Json = {
    "id": USERS,
    "name": "users",
    "type": "auth",
    **_rules(SIGNED_IN, "id = @request.auth.id", create=""),
    "authRule": "blocked = false",
    "manageRule": None,
    "passwordAuth": {"enabled": True, "identityFields": ["email", "username"]},
    "otp": {"enabled": True, "duration": 180, "length": 8},
    "mfa": {"enabled": True, "duration": 600, "rule": "two_factors = true"},
    "authAlert": {"enabled": False},
    "fields": [
        _PASSWORD,
        {"name": "username", "type": "text", "min": 0, "max": 30, "pattern": "^[A-Za-z0-9_]*$"},
        {"name": "name", "type": "text", "max": 255},
        {"name": "blocked", "type": "bool"},
        {"name": "two_factors", "type": "bool"},
        {"name": "hidden_note", "type": "text", "hidden": True},
        _file("avatar", mimeTypes=_IMAGES, thumbs=["100x100"]),
        _relation("following", USERS, many=999),
        *_dates(),
    ],
    "indexes": [
        "CREATE UNIQUE INDEX `idx_tokenKey__pb_users_auth_` ON `users` (`tokenKey`)",
        "CREATE UNIQUE INDEX `idx_email__pb_users_auth_` ON `users` (`email`) WHERE `email` != ''",
        "CREATE UNIQUE INDEX `idx_username_users` ON `users` (`username`) WHERE `username` != ''",
    ],
}

# A second collection of people, closed to everybody else.
_STAFF: Json = {
    "id": "pbc_staff",
    "name": "staff",
    "type": "auth",
    **_rules("id = @request.auth.id", None),
    "authRule": "",
    "manageRule": None,
    "passwordAuth": {"enabled": True, "identityFields": ["email"]},
    "otp": {"enabled": False},
    "mfa": {"enabled": False},
    "authAlert": {"enabled": False},
    "fields": [_PASSWORD, {"name": "level", "type": "number", "onlyInt": True}, *_dates()],
}

# Everybody may do everything.
_NOTES = _base(
    "notes",
    _rules("", ""),
    [
        {"name": "title", "type": "text", "required": True, "min": 1, "max": 200},
        {"name": "body", "type": "text"},
        {"name": "rank", "type": "number"},
        {"name": "done", "type": "bool"},
        {"name": "meta", "type": "json"},
        _file("attachment", maxSize=64 * 1024 * 1024),
    ],
)

# Fields of every type. Published posts are seen by whoever is signed in, others by their owner.
_POSTS = _base(
    "posts",
    _rules(f"{SIGNED_IN} && (published = true || {OWN})", OWN, create=f"{SIGNED_IN} && {OWN}"),
    [
        _relation("owner", USERS, cascade=True, required=True),
        {"name": "title", "type": "text", "required": True, "min": 1, "max": 100},
        {"name": "slug", "type": "text", "pattern": "^[a-z0-9-]*$", "max": 60},
        {"name": "text", "type": "editor", "maxSize": 100_000},
        {"name": "kind", "type": "select", "values": ["news", "story", "poll"], "maxSelect": 1},
        {"name": "tags", "type": "select", "values": ["red", "green", "blue", "black"], "maxSelect": 3},
        {"name": "published", "type": "bool"},
        {"name": "score", "type": "number", "min": 0, "max": 1000, "onlyInt": True},
        {"name": "link", "type": "url"},
        {"name": "contact", "type": "email"},
        {"name": "due", "type": "date"},
        {"name": "meta", "type": "json", "maxSize": 10_000},
        {"name": "place", "type": "geoPoint"},
        {"name": "internal", "type": "text", "hidden": True},
        _relation("related", "pbc_posts", many=10),
        _file("cover", mimeTypes=_IMAGES, thumbs=["100x100", "0x50"], maxSize=1024 * 1024),
        _file("papers", maxSelect=5, maxSize=1024 * 1024),
    ],
    ["CREATE UNIQUE INDEX `idx_slug_posts` ON `posts` (`slug`) WHERE `slug` != ''"],
)

# Deleted with their post; the author is only unset.
_COMMENTS = _base(
    "comments",
    _rules(SIGNED_IN, "author = @request.auth.id"),
    [
        _relation("post", "pbc_posts", cascade=True, required=True),
        _relation("author", USERS),
        {"name": "text", "type": "text", "required": True, "max": 500},
    ],
)

_PRIVATE = _base(
    "private",
    _rules(OWN, OWN),
    [_relation("owner", USERS, required=True, cascade=True), {"name": "text", "type": "text"}],
)

_COUNTERS = _base("counters", _rules("", ""), [{"name": "name", "type": "text"}, {"name": "n", "type": "number"}])

# `image` and `documents` are public by their address, `protected` needs a file token of the owner, unless `open`.
_FILES = _base(
    "files",
    _rules(f"{OWN} || open = true", OWN, create=f"{SIGNED_IN} && {OWN}"),
    [
        _relation("owner", USERS, cascade=True),
        {"name": "title", "type": "text"},
        {"name": "open", "type": "bool"},
        _file("image", mimeTypes=_IMAGES, thumbs=["100x100", "0x50"], maxSize=5 * 1024 * 1024),
        _file("documents", maxSelect=5, maxSize=1024 * 1024),
        _file("protected", protected=True, maxSize=1024 * 1024),
        _file("large", maxSize=2 * GIB),
    ],
)

_SECRET = _base("secret", _rules(None, None), [{"name": "text", "type": "text"}])

# Rules with parts that reach beyond the record.
_ROOMS = _base(
    "rooms",
    _rules("@collection.memberships.room ?= id && @collection.memberships.user ?= @request.auth.id", None),
    [{"name": "name", "type": "text"}],
)
_MEMBERSHIPS = _base(
    "memberships",
    _rules("user = @request.auth.id", None),
    [_relation("room", "pbc_rooms", cascade=True), _relation("user", USERS, cascade=True)],
)
_MESSAGES = _base(
    "messages",
    _rules("room.memberships_via_room.user ?= @request.auth.id", None),
    [_relation("room", "pbc_rooms", cascade=True), {"name": "text", "type": "text"}],
)
_GUARDED = _base(
    "guarded",
    _rules('@request.headers.x_team = "blue"', None, list='@request.query.key = "open"'),
    [{"name": "text", "type": "text"}],
)
_TIMED = _base(
    "timed",
    _rules('expires = "" || expires > @now', ""),
    [{"name": "text", "type": "text"}, {"name": "expires", "type": "date"}],
)

_POST_STATS: Json = {
    "id": "pbc_post_stats",
    "name": "post_stats",
    "type": "view",
    "listRule": "",
    "viewRule": "",
    "viewQuery": (
        "SELECT posts.id, posts.title, posts.owner, COUNT(comments.id) AS comments"
        " FROM posts LEFT JOIN comments ON comments.post = posts.id GROUP BY posts.id"
    ),
}

COLLECTIONS: list[Json] = [
    _USERS, _STAFF, _NOTES, _POSTS, _COMMENTS, _PRIVATE, _COUNTERS, _FILES, _SECRET, _ROOMS, _MEMBERSHIPS, _MESSAGES,
    _GUARDED, _TIMED, _POST_STATS,
]  # fmt: skip

TABLES: list[str] = [collection["name"] for collection in COLLECTIONS if collection["type"] != "view"]


def settings(smtp_port: int) -> Json:
    """Settings of that PocketBase: batches on, limits off, addresses taken from one header, mail to the port."""
    return {
        "batch": {"enabled": True, "maxRequests": 50, "timeout": 10, "maxBodySize": 0},
        "rateLimits": {"enabled": False},
        "trustedProxy": {"headers": ["X-Forwarded-For"], "useLeftmostIP": False},
        "smtp": {"enabled": True, "host": "127.0.0.1", "port": smtp_port, "tls": False, "username": "", "authMethod": ""},
        "meta": {
            "appName": "Acme", "appURL": "http://127.0.0.1", "senderName": "Acme", "senderAddress": "acme@example.com",
        },
        "logs": {"maxDays": 0},
    }  # fmt: skip
