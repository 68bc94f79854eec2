"""Signing in, out and on over a socket. Whose a socket is, it stays (contract gateway, B.2, B.3 and B.10).

A token is verified once, when it comes. From then on each message asks for the session, which may have rolled elsewhere meanwhile: so a
socket that was silent for long does not show a token that has been replaced, which would end the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hapta.gateway.auth.service import Call
from hapta.gateway.bodies.incoming import Incoming
from hapta.gateway.closed import plain_segment
from hapta.gateway.errors import CollectionMissing, TokenRefused
from hapta.gateway.models import NOBODY, LimitName, Outcome, Visitor
from hapta.gateway.rules.codes import ErrorCodes
from hapta.gateway.sessions.tokens import upstream_claims
from hapta.gateway.socket.asked import operation, required, text
from hapta.gateway.socket.connection import Connection
from hapta.gateway.socket.errors import BadMessage, NotSignedIn, OtherIdentity
from hapta.gateway.socket.failures import of_error, of_outcome
from hapta.gateway.socket.parts import Parts
from hapta.gateway.socket.protocol import STALE, Message
from hapta.kit.clock import iso_ms

CHANNEL_BYTES = 24
USERS = "users"
"""The collection of people, where none is named."""

Bound = Callable[[Connection, str], Awaitable[None]]
"""Told of a connection that belongs to a session now, with the session that it belonged to before."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Identities:
    """Handlers of sign-ins.

    Args:
        bound: takes note of it.
    """

    def __init__(self, parts: Parts, bound: Bound) -> None:
        self._parts = parts
        self._bound = bound

    # --- for all handlers ---

    async def who(self, connection: Connection) -> Visitor:
        """Whose the connection is, while the session lives.

        Raises:
            NotSignedIn: nobody's; that counts too.
            TokenRefused: the session is over; so is the connection.
            Unavailable, BadGateway, GatewayTimeout: that cannot be found out now.
        """
        bound = connection.visitor
        if bound.is_guest:
            await self.draw(connection)
            raise NotSignedIn
        try:
            return await self._parts.sessions.of_session(bound.collection_id, bound.record_id, bound.session_id)
        except TokenRefused:
            connection.end(STALE, "session ended")
            raise

    async def draw(self, connection: Connection, name: LimitName = "default") -> None:
        """Counts a message against a limit.

        Raises:
            LimitReached: it is one too many.
        """
        await self._parts.limits.drawn(name, None, connection.visitor, connection.client.address)

    async def bind(self, connection: Connection, token: str) -> Visitor:
        """Makes a connection the one of a token's session.

        Raises:
            TokenRefused: the token does not count.
            OtherIdentity: it is somebody else's already.
            LimitReached: its record has too many streams and sockets.
        """
        sessions = self._parts.sessions
        visitor = await sessions.visitor(b"Bearer " + token.encode(), connection.client)
        if visitor.is_guest:  # by the settings a token that does not count makes a guest, but not here
            raise TokenRefused
        before = connection.visitor
        if not before.is_guest and before.scope != visitor.scope:
            raise OtherIdentity
        if connection.seat is not None:
            connection.seat.bind(visitor)
        connection.visitor, connection.token = visitor, token
        connection.token_ends_at = float(upstream_claims(token)["exp"])
        if before.session_id != visitor.session_id:
            connection.channel = self._parts.ids.secret(CHANNEL_BYTES)
            await self._bound(connection, before.session_id)
            # Its end may have come before anybody listened for it here.
            await self.who(connection)
        return visitor

    # --- messages ---

    async def auth(self, connection: Connection, message: Message) -> None:
        """`auth`, and `authSession` as it was called: hands in a token."""
        try:
            await self.draw(connection)
            if not message.token:
                raise BadMessage("token is missing.", ErrorCodes.FIELD_MISSING)
            await self.bind(connection, message.token)
        except TokenRefused as error:
            await connection.fail(message, of_error(error, message.kind))
            if connection.visitor.is_guest:
                connection.end(STALE, "invalid token")
            return
        await connection.reply(message, {"message": "success", **self._state(connection)})

    async def with_password(self, connection: Connection, message: Message) -> None:
        """`authWithPassword`."""
        if not connection.visitor.is_guest:
            raise OtherIdentity
        payload = message.payload
        collection = self._parts.catalog.resolve(plain_segment(text(payload, "collection") or USERS, CollectionMissing))
        data = {
            "identity": required(payload, "identity", "email", "username"),
            "password": required(payload, "password"),
        }
        for name in ("identityField", "mfaId"):
            if value := text(payload, name):
                data[name] = value
        work = self._parts.auth.sign_in("password", Call(collection, NOBODY, connection.client, data, {}, b""))
        outcome = await self._parts.metrics.counted("auth", collection.name, work)
        if outcome.status != 200:
            await connection.fail(message, of_outcome(outcome, message.kind))
            return
        await connection.reply(message, await self.signed_in(connection, outcome))

    async def signed_in(self, connection: Connection, outcome: Outcome) -> dict[str, Any]:
        """Makes a connection the one of a session that has just begun; what its client is told.

        Raises:
            As `bind`. The session has ended then: nobody has its token.
        """
        found = _decode(outcome.body)
        token: str = found["token"]
        try:
            if not connection.visitor.is_guest or connection.ending:
                raise OtherIdentity
            await self.bind(connection, token)
        except BaseException:
            claims = upstream_claims(token)
            await self._parts.sessions.revoke(str(claims["sid"]), "undelivered")
            raise
        return {**found, **self._state(connection)}

    async def update(self, connection: Connection, message: Message) -> None:
        """`authUpdate`: is the session still good, and what is the record now?"""
        if message.token and message.token != connection.token:
            await self.bind(connection, message.token)
        visitor = await self.who(connection)
        collection = self._parts.catalog.resolve(visitor.collection_id)
        # A payload's id is not asked: it is one's own record, or nobody's business.
        asked = operation("view", collection, visitor, connection.client, message.payload, visitor.record_id)
        outcome = await self._parts.records.read(asked)
        if outcome.status != 200:
            await connection.fail(message, of_outcome(outcome, "read"))
            return
        await connection.reply(message, outcome.body)

    async def roll(self, connection: Connection, message: Message) -> None:
        """`auth_roll_token`: the session's next token, and a fresh record. The token that is shown is judged as over HTTP: one that
        was replaced long ago ends its session."""
        if message.token and message.token != connection.token:
            await self.bind(connection, message.token)
        if connection.visitor.is_guest:
            raise NotSignedIn
        parts, client = self._parts, connection.client
        visitor = await parts.sessions.visitor(b"Bearer " + connection.token.encode(), client)
        collection = parts.catalog.resolve(visitor.collection_id)
        work = parts.auth.refresh(Call(collection, visitor, client, {}, {}, b""))
        outcome = await parts.metrics.counted("authRefresh", collection.name, work)
        if outcome.status != 200:
            await connection.fail(message, of_outcome(outcome, "auth"))
            return
        found = _decode(outcome.body)
        connection.token = found["token"]
        connection.token_ends_at = float(upstream_claims(connection.token)["exp"])
        told: dict[str, Any] = {"token": found["token"], "record": found["record"], **self._state(connection)}
        if message.alias:
            told |= {message.alias: message.id, "type": text(message.payload, "type") or message.type}
        await connection.reply(message, told)

    async def logout(self, connection: Connection, message: Message) -> None:
        """`logout`: ends this session, or with `all` every one of its record. The socket ends with it."""
        visitor = await self.who(connection)
        auth, client = self._parts.auth, connection.client
        with connection.held():
            if message.payload.get("all") is True:
                count = await auth.end_all(visitor, client)
            else:
                count = int(await auth.end(visitor, visitor.session_id, client))
            await connection.reply(message, {"ended": count})

    async def change_password(self, connection: Connection, message: Message) -> None:
        """`changePassword`: an update of one's own record with one's own rights. PocketBase forgets all tokens with the old password, so
        the session ends with it."""
        visitor = await self.who(connection)
        payload = message.payload
        new = required(payload, "newPassword", "password")
        data = {
            "oldPassword": required(payload, "oldPassword", "currentPassword"),
            "password": new,
            "passwordConfirm": text(payload, "passwordConfirm") or new,
        }
        collection = self._parts.catalog.resolve(visitor.collection_id)
        asked = operation("update", collection, visitor, connection.client, {}, visitor.record_id)
        with connection.held():
            outcome = await self._parts.records.write(asked, Incoming.of_data(data))
            if outcome.status != 200:
                await connection.fail(message, of_outcome(outcome, message.kind))
            else:
                await connection.reply(message, outcome.body)

    @staticmethod
    def _state(connection: Connection) -> dict[str, Any]:
        visitor = connection.visitor
        return {
            "channel": connection.channel,
            "identity": {"collectionId": visitor.collection_id, "id": visitor.record_id},
            "expires": iso_ms(int(connection.token_ends_at * 1000)),
        }
