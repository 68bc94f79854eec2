"""`Rules`: what the rest of the gateway asks about the owner's rules. It fails closed, in time, and each verdict is of its own request.

Requests under way keep the rules they began with; a reload swaps them for those that come after. Hooks run in threads (`pool.py`), so a
rule that hangs costs its own requests and nobody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import structlog

from hapta.gateway.errors import CollectionMissing, RecordMissing, RuleDenied
from hapta.gateway.models import Action, Client, Collection, Operation, Visitor
from hapta.gateway.rules.codes import TEXTS, ErrorCodes
from hapta.gateway.rules.context import OutOfTime, Phase, Ports, Record, Scene
from hapta.gateway.rules.declare import Problem
from hapta.gateway.rules.judge import HookFailed, Refused, Shown, Unplaced, judge_body
from hapta.gateway.rules.loader import RulesBroken, forget
from hapta.gateway.rules.pool import Pool, PoolBusy, TooSlow
from hapta.gateway.rules.refusals import error_of
from hapta.gateway.rules.ruleset import SHOWING, Part, RuleSet
from hapta.gateway.rules.watch import Watcher
from hapta.kit.clock import Clock
from hapta.kit.errors import HaptaError, Unavailable

LOAD_SECONDS = 10.0
_ABOUT_A_RECORD = frozenset[str]({"view", "update", "delete", "file", "subscribe"})
_NOWHERE = Client(address="")

_log = structlog.stdlib.get_logger("hapta.gateway.rules")
T = TypeVar("T")


class RulesBusy(Unavailable):
    """Every thread for rules is taken: refused at once, before anything has happened."""

    message = "The server cannot decide about this request right now."


class Observer(Protocol):
    """Who counts what rules do."""

    def ruled(self, phase: Phase, action: Action, collection: str, outcome: str, seconds: float) -> None:
        """One request was judged.

        Args:
            collection: its name.
            outcome: `allowed`, `denied`, `failed`, `timeout`, `busy`, or `cancelled` when the visitor left.
        """
        ...

    def reloaded(self, ok: bool) -> None:
        """The file was read again."""
        ...


class _Nobody:
    def ruled(self, phase: Phase, action: Action, collection: str, outcome: str, seconds: float) -> None: ...
    def reloaded(self, ok: bool) -> None: ...


class Rules:
    """The owner's rules.

    Args:
        path: the file; None: there are no rules.
        ports: what hooks reach.
        threads: in which hooks run.
        timeout_ms: a request that is not judged by then is refused.
    """

    def __init__(
        self,
        path: Path | None,
        ports: Ports,
        *,
        clock: Clock,
        threads: int = 4,
        timeout_ms: int = 250,
        observer: Observer | None = None,
    ) -> None:
        self._path = path
        self._ports = ports
        self._clock = clock
        self._pool = Pool(threads, timeout_ms / 1000)
        self._observer = observer or _Nobody()
        self._rules = RuleSet()
        self._former = ""
        self._problems: list[Problem] = []
        self._told_unknown: list[str] = []
        self._loaded_at_ms = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher = None if path is None else Watcher(path, self._found)
        self._waiting: list[asyncio.Future[RulesBroken | None]] = []
        self._listeners: list[Callable[[], None]] = []
        self.generation = 0
        """Counts the rules that have been in force. A verdict that was kept is of one generation."""

    async def start(self) -> None:
        """Loads the file and starts the threads.

        Raises:
            RulesBroken: the file cannot be used. A server without the rules that it was told to keep does not start.
        """
        self._loop = asyncio.get_running_loop()
        if self._watcher is None or self._path is None:
            return
        self._pool.start()
        waiting = self._wait()
        self._watcher.start()
        if (broken := await self._loaded(self._path, waiting)) is not None:
            self.stop()
            raise broken

    def stop(self) -> None:
        """Ends watch and threads, without waiting for any."""
        if self._watcher is not None:
            self._watcher.stop()
        self._pool.stop()

    async def reload(self) -> Mapping[str, Any]:
        """Reads the file now and returns the `status`. A broken file changes nothing but that."""
        if self._watcher is not None and self._path is not None:
            waiting = self._wait()
            self._watcher.load_now()
            if (broken := await self._loaded(self._path, waiting)) is not None:
                self._problems = broken.problems
        return self.status()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` in the event loop whenever other rules came into force: verdicts that were kept are void."""
        self._listeners.append(listener)

    def has(self, phase: Phase, action: Action, collection: Collection, *, expand: str | None = None) -> bool:
        """Whether a rule has a say.

        Args:
            expand: what the request expands; records of other collections come with it, which have rules of their own. None: not known.
        """
        rules = self._rules
        if not rules.hooks:
            return False
        if rules.find(phase, action, collection):
            return True
        return phase == "after" and expand != "" and action in SHOWING and bool(rules.showing())

    def stable(self, phase: Phase, action: Action, collection: Collection, *, expand: str | None = None) -> bool:
        """Whether all rules that have a say rest on identity, collection, record and query alone.

        Args: as of `has`.
        """
        rules = self._rules
        hooks = rules.find(phase, action, collection)
        if phase == "after" and expand != "" and action in SHOWING:
            hooks = (*hooks, *rules.showing())
        return all(hook.stable for hook in hooks)

    def schema(self, collection: Collection, action: Action, part: Part = "body") -> type | None:
        """The type of the owner that a part of such requests must fit."""
        return self._rules.schema(collection, action, part) if self._rules.schemas else None

    async def before(self, operation: Operation) -> None:
        """Asks the rules before PocketBase is asked. What they replace stands in `operation.data` afterwards.

        Raises:
            RuleDenied, RuleRejected, RecordMissing, TokenRefused, LimitReached: a rule refused, or could not decide.
            RulesBusy: there is no thread to ask it in.
            UpstreamAway, UpstreamBroken, UpstreamSlow: a rule asked for a record that could not be fetched.
        """
        action, collection = operation.action, operation.collection
        hooks = self._rules.find("before", action, collection)
        if not hooks:
            return
        record_id = "" if operation.record_id == "*" else operation.record_id
        scene = self._scene(operation, record_id)
        body = await self._asked(
            "before",
            action,
            scene,
            lambda: judge_body(
                hooks,
                scene,
                action=action,
                collection=collection,
                record_id=record_id,
                data=operation.data,
                filenames=operation.filenames,
            ),
        )
        if operation.data is not None:
            operation.data = body.data

    async def after(self, operation: Operation, result: Any) -> Any:
        """Asks the rules about an answer of PocketBase, decoded, and returns what is left of it: each record of a list, what is expanded,
        the record of a login. Of lists and expands, records that a rule refuses are left out.

        Args:
            result: given away; it may be changed in place.

        Raises:
            As `before`. What PocketBase has written stays written.
        """
        rules, action, collection = self._rules, operation.action, operation.collection
        if not self.has("after", action, collection):
            return result
        scene = self._scene(operation, operation.record_id)
        shown = Shown(rules, scene, action)
        if action == "list" and isinstance(result, dict):
            items = cast("dict[str, Any]", result).get("items", [])
            kept = await self._asked("after", action, scene, lambda: shown.items(collection, items))
            return {**cast("dict[str, Any]", result), "items": kept}
        if action == "auth" and isinstance(result, dict) and "record" in result:
            record = cast("dict[str, Any]", result)["record"]
            kept = await self._asked("after", action, scene, lambda: shown.record(collection, record))
            return {**cast("dict[str, Any]", result), "record": kept}
        if action not in SHOWING:  # a delete or a file: there is no record to show, and hooks are told that it is done
            if rules.find("after", action, collection):
                await self._asked("after", action, scene, lambda: shown.record(collection, {}))
            return cast(Any, result)
        return await self._asked("after", action, scene, lambda: shown.record(collection, result))

    async def event(
        self, collection: Collection, visitor: Visitor, action: str, record: Record, *, client: Client = _NOWHERE
    ) -> Record | None:
        """Asks the rules about the record of a realtime event; None when this visitor must not have it.

        Args:
            action: `create`, `update` or `delete`.
            record: given away; it may be changed in place.
        """
        if not self.has("after", "subscribe", collection):
            return record
        scene = Scene(
            asyncio.get_running_loop(),
            self._ports,
            time.monotonic() + self._pool.seconds,
            collection=collection,
            record_id=str(record.get("id", "")),
            visitor=visitor,
            client=client,
            query={},
        )
        shown = Shown(self._rules, scene, "subscribe", action)
        try:
            kept: Record = await self._asked("after", "subscribe", scene, lambda: shown.record(collection, record))
        except HaptaError:
            return None
        return kept

    def collections_changed(self) -> None:
        """Tells the log of rules that speak about collections which are not there: they never speak, and somebody relies on them."""
        unknown = self._unknown()
        if unknown and unknown != self._told_unknown:
            _log.warning("rules name collections that PocketBase does not have", collections=unknown)
        self._told_unknown = unknown

    def status(self) -> dict[str, Any]:
        """How the rules are doing, for operators: JSON values."""
        rules, threads = self._rules, self._pool.threads
        return {
            "path": None if self._path is None else str(self._path),
            "generation": self.generation,
            "loadedAt": self._loaded_at_ms,
            "problems": [{"line": problem.line, "message": problem.message} for problem in self._problems],
            "hooks": [
                {
                    "phase": hook.phase,
                    "actions": list(hook.actions),
                    "collection": hook.collection,
                    "name": hook.name,
                    "line": hook.line,
                    "stable": hook.stable,
                }
                for hook in rules.hooks
            ],
            "schemas": [
                {
                    "collection": one.collection,
                    "actions": list(one.actions),
                    "part": one.part,
                    "name": one.type.__name__,
                    "line": one.line,
                }
                for one in rules.schemas
            ],
            "unknownCollections": self._unknown(),
            "threads": threads._asdict(),
        }

    def _scene(self, operation: Operation, record_id: str) -> Scene:
        return Scene(
            asyncio.get_running_loop(),
            self._ports,
            time.monotonic() + self._pool.seconds,
            collection=operation.collection,
            record_id=record_id,
            visitor=operation.visitor,
            client=operation.client,
            query=operation.query,
        )

    async def _asked(self, phase: Phase, action: Action, scene: Scene, judge: Callable[[], T]) -> T:
        """What the hooks said, in time; every other end is an error."""
        began = time.monotonic()
        outcome = "cancelled"
        try:
            answer = await self._pool.run(judge)
            outcome = "allowed"
            return answer
        except Refused as refused:
            outcome = "denied"
            error = error_of(refused.denied)
            raise await self._unless_hidden(error, phase, action, scene) from None
        except HookFailed as failed:
            outcome = "failed"
            cause = failed.__cause__
            if isinstance(cause, HaptaError):
                raise cause from None
            if isinstance(cause, OutOfTime):
                outcome = "timeout"
            _log.error(
                "a rule failed, so the request was refused",
                rule=failed.hook.name,
                line=failed.hook.line,
                collection=scene.collection.name,
                action=action,
                exc_info=cause,
            )
        except TooSlow:
            outcome = "timeout"
            _log.error(
                "a rule took too long, so the request was refused", collection=scene.collection.name, action=action
            )
        except (Unplaced, CollectionMissing) as error:
            outcome = "failed"
            _log.error(
                "records could not be judged, so the request was refused",
                reason=str(error),
                collection=scene.collection.name,
                action=action,
            )
        except PoolBusy:
            outcome = "busy"
            raise RulesBusy from None
        finally:
            scene.over = True
            self._observer.ruled(phase, action, scene.collection.name, outcome, time.monotonic() - began)
        undecided = RuleDenied(TEXTS[ErrorCodes.INTERNAL_ERROR], number=ErrorCodes.INTERNAL_ERROR)
        raise await self._unless_hidden(undecided, phase, action, scene)

    async def _unless_hidden(self, error: HaptaError, phase: Phase, action: Action, scene: Scene) -> HaptaError:
        """A refusal of a record that the visitor cannot see is no refusal: it would tell that there is one (contract gateway, A.4)."""
        if (
            phase == "after"
            or not isinstance(error, RuleDenied)
            or action not in _ABOUT_A_RECORD
            or not scene.record_id
        ):
            return error
        known = scene.known_existing
        seen = await scene.look() if known is None else known[0]
        return RecordMissing() if seen is None else error

    def _unknown(self) -> list[str]:
        """What the rules name and PocketBase does not have: such rules never speak."""
        unknown: list[str] = []
        if not self._ports.collections.loaded:
            return unknown
        for name in sorted(self._rules.collections()):
            try:
                self._ports.collections.resolve(name)
            except CollectionMissing:
                unknown.append(name)
        return unknown

    def _wait(self) -> asyncio.Future[RulesBroken | None]:
        waiting: asyncio.Future[RulesBroken | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return waiting

    @staticmethod
    async def _loaded(path: Path, waiting: asyncio.Future[RulesBroken | None]) -> RulesBroken | None:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                return await waiting
        except TimeoutError:
            return RulesBroken(path, [Problem(0, f"did not load within {LOAD_SECONDS:.0f} seconds")])

    def _found(self, found: RuleSet | RulesBroken) -> None:
        """In the watcher's thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._take, found)
        except RuntimeError:  # the loop was closed in this very moment
            return

    def _take(self, found: RuleSet | RulesBroken) -> None:
        waiting, self._waiting = self._waiting, []
        broken = found if isinstance(found, RulesBroken) else None
        if isinstance(found, RuleSet):
            # The module before the last goes: requests that began with the last one may still be under way.
            if self._former:
                forget(self._former)
            self._former, self._rules, self._problems = self._rules.module, found, []
            self.generation += 1
            self._loaded_at_ms = self._clock.now_ms()
            _log.info("rules are in force", path=str(self._path), hooks=len(found.hooks), schemas=len(found.schemas))
        else:
            self._problems = found.problems
            _log.error(
                "rules cannot be used, so those before stay in force", problems=[str(one) for one in found.problems]
            )
        self._observer.reloaded(broken is None)
        for future in waiting:
            if not future.done():
                future.set_result(broken)
        if broken is None:
            for listener in self._listeners:
                listener()
            self.collections_changed()
