"""Sample rules: everybody edits only their own profile, and nobody edits what others count for them.

Point `gateway.rules` at a file like this one. It is read anew when it changes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hapta.rules import Context, ErrorCodes, Verdict, after, allow, before, deny, replace, schema

COUNTED = ("followers", "following_count", "reputation", "verified_badge")
"""Fields that hooks of PocketBase or other people's actions write, never the owner of the record."""


@before(("update", "delete"), "users")
def own_profile_only(ctx: Context) -> Verdict:
    """Whoever is not the owner is refused; if they cannot even see the profile, the answer is 404."""
    return allow() if ctx.is_own else deny(ErrorCodes.OWNERSHIP_REQUIRED)


@before(("create", "update"), "users")
def protected_fields(ctx: Context) -> Verdict:
    """`followers`, and with it `followers+`, `+followers` and `followers-`, cannot be set from outside."""
    if touched := sorted(ctx.touches(*COUNTED)):
        return deny(ErrorCodes.AUTHORIZATION_FAILED, "This field is not yours to change.", field=touched[0])
    return allow()


@before("create", "comments")
def sign_comments(ctx: Context) -> Verdict:
    """A comment is always its author's, whatever the body says."""
    if not ctx.auth:
        return deny(ErrorCodes.NO_SESSION_GIVEN)
    return replace({**ctx.without("author"), "author": ctx.auth.id})


@after("view", "users", stable=True)
def hide_email(ctx: Context) -> Verdict:
    """An address is shown to nobody but its owner: in lists, expands, events and answers to writes just the same."""
    if not ctx.is_own:
        ctx.result.pop("email", None)
    return allow()


@before(("list", "subscribe"), "*", stable=True)
def no_search_for_email(ctx: Context) -> Verdict:
    """What is hidden must not be found out by filters either, not even along relations (`author.email ~ 'a'`)."""
    return deny(ErrorCodes.INVALID_FILTER) if ctx.searches("email") else allow()


@schema("comments", "create")
class NewComment(Struct):
    """Stricter than PocketBase's own schema; fields that are not named here are left to PocketBase."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]
