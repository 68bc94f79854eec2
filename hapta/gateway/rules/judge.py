"""Asks the hooks, in a thread: the body before PocketBase sees it, and each record before the visitor does.

Records within records (`expand`) are judged by the rules of their own collection, from the inside out, so that what is hidden in one
place is hidden everywhere (contract gateway, B.5 NOTE).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from hapta.gateway.errors import CollectionMissing
from hapta.gateway.models import Action, Collection
from hapta.gateway.rules.context import Context, OutOfTime, Record, Scene, current_scene
from hapta.gateway.rules.ruleset import Hook, RuleSet
from hapta.gateway.rules.verdicts import Allow, Deny, Replace, Verdict, check_json

MAX_EXPAND = 16
"""PocketBase expands six levels; what is deeper did not come from it."""


class NoVerdict(TypeError):
    """The hook returned something that is no verdict, such as nothing."""


class HookFailed(Exception):
    """A hook raised, or said what cannot be done. The cause says what."""

    def __init__(self, hook: Hook) -> None:
        super().__init__(hook.name)
        self.hook = hook


class Unplaced(Exception):
    """A record within the answer does not tell its collection, so nobody knows which rules speak about it."""


class Refused(Exception):
    """A hook refused."""

    def __init__(self, hook: Hook, denied: Deny) -> None:
        super().__init__(hook.name)
        self.hook = hook
        self.denied = denied


class Body(NamedTuple):
    """What the hooks before PocketBase leave of a body. `data` is None where there is none."""

    data: Record | None
    replaced: bool


def judge_body(
    hooks: Iterable[Hook],
    scene: Scene,
    *,
    action: Action,
    collection: Collection,
    record_id: str,
    data: Record | None,
    filenames: tuple[tuple[str, str, str], ...],
) -> Body:
    """Asks the hooks one by one.

    Raises:
        Refused: one said no.
        HookFailed: one did not say anything that counts.
    """
    replaced = False
    current = data
    token = current_scene.set(scene)
    try:
        for hook in hooks:
            try:
                context = Context(
                    scene,
                    stable=hook.stable,
                    type=action,
                    phase="before",
                    collection=collection,
                    record_id=record_id,
                    data=current,
                    filenames=filenames,
                )
                verdict = _asked(hook, context, scene)
                if isinstance(verdict, Replace):
                    if data is None:
                        raise NoVerdict("there is no body to replace")
                    current, replaced = verdict.value, True
                elif data is not None:
                    if context.data is not current:
                        check_json(context.data)
                        replaced = True
                    current = context.data
            except Refused:
                raise
            except (
                Exception,
                SystemExit,
            ) as error:  # boundary: whatever an owner's function raises refuses the request
                raise HookFailed(hook) from error
    finally:
        current_scene.reset(token)
    return Body(current, replaced)


class Shown:
    """Judges records on their way out.

    Args:
        event: of a realtime event; empty otherwise.
    """

    def __init__(self, rules: RuleSet, scene: Scene, action: Action, event: str = "") -> None:
        self._rules = rules
        self._scene = scene
        self._action: Action = action
        self._event = event

    def items(self, collection: Collection, items: list[Any]) -> list[Any]:
        """The records of a list without those that a hook refuses."""
        kept: list[Any] = []
        for item in items:
            try:
                kept.append(self.record(collection, item))
            except Refused:
                continue
        return kept

    def record(self, collection: Collection, record: Any) -> Any:
        """One record as the hooks leave it.

        Raises:
            Refused, HookFailed, Unplaced
        """
        token = current_scene.set(self._scene)
        try:
            return self._record(self._place(record, collection), record, 0)
        finally:
            current_scene.reset(token)

    def _place(self, record: Any, assumed: Collection) -> Collection:
        """The collection that a record says it is of, which is the one of the request for all but odd views."""
        said = record.get("collectionId") if isinstance(record, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if not isinstance(said, str) or said == assumed.id:
            return assumed
        return self._scene.collection_of(said)

    def _record(self, collection: Collection, record: Any, depth: int) -> Any:
        if not isinstance(record, dict):
            raise Unplaced("a record is no object")
        shown = cast("Record", record)
        if depth > MAX_EXPAND:
            raise Unplaced("records are expanded too deeply")
        if isinstance(expand := shown.get("expand"), dict):
            shown["expand"] = self._expanded(collection, cast("dict[str, Any]", expand), depth)
        action: Action = "view" if depth else self._action
        for hook in self._rules.find("after", action, collection):
            try:
                context = Context(
                    self._scene,
                    stable=hook.stable,
                    type=action,
                    phase="after",
                    collection=collection,
                    record_id=str(shown.get("id", "") or ("" if depth else self._scene.record_id)),
                    result=shown,
                    event=self._event,
                    expanded=depth > 0,
                )
                verdict = _asked(hook, context, self._scene)
                shown = verdict.value if isinstance(verdict, Replace) else context.result
            except Refused:
                raise
            except (
                Exception,
                SystemExit,
            ) as error:  # boundary: whatever an owner's function raises refuses the request
                raise HookFailed(hook) from error
        return shown

    def _expanded(self, collection: Collection, expand: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Expanded records; those that a hook refuses are left out, as PocketBase leaves out what is not to be seen."""
        kept: dict[str, Any] = {}
        for path, inner in expand.items():
            if isinstance(inner, list):
                kept[path] = [
                    shown
                    for one in cast("list[Any]", inner)
                    if (shown := self._inner(collection, path, one, depth)) is not None
                ]
            elif (shown := self._inner(collection, path, inner, depth)) is not None:
                kept[path] = shown
        return kept

    def _inner(self, outer: Collection, path: str, record: Any, depth: int) -> Any:
        said = record.get("collectionId") if isinstance(record, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        try:
            own = self._scene.collection_of(said) if isinstance(said, str) and said else self._related(outer, path)
        except CollectionMissing as error:
            raise Unplaced(f"nobody knows the collection of what is expanded as {path}") from error
        try:
            return self._record(own, record, depth + 1)
        except Refused:
            return None

    def _related(self, outer: Collection, path: str) -> Collection:
        """Where a path of `expand` leads, by the schema: the records do not say, since the visitor asked for other fields only."""
        field = outer.fields.get(path)
        if field is not None and field.type == "relation":
            return self._scene.collection_of(str(field.options.get("collectionId", "")))
        return self._scene.ports.collections.resolve(path.partition("_via_")[0])


def _asked(hook: Hook, context: Context, scene: Scene) -> Verdict:
    verdict = cast(object, hook.function(context))
    if scene.late:
        raise OutOfTime("a rule went on without what it had asked for")
    if isinstance(verdict, Deny):
        raise Refused(hook, verdict)
    if isinstance(verdict, Allow | Replace):
        return verdict
    raise NoVerdict(f"returned {type(verdict).__name__}; return allow(), deny(...) or replace(...)")
