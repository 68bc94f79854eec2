"""The store: bounded by bytes, fair to identities, and not washed out by what is asked for once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hapta.gateway.cache.models import Entry
from hapta.gateway.cache.store import Store
from hapta.gateway.cache.tags import Counter


def entry(
    key: str, scope: str = "u:x/1", size: int = 100, until: float = 10.0, counter: Counter | None = None
) -> Entry:
    checks = ((counter, counter.value),) if counter is not None else ()
    return Entry(200, b"x" * size, (), b"", key=key, scope=scope, expires_at=until, checks=checks)


def put(store: Store, key: str, scope: str = "u:x/1", size: int = 100, *, long_tail: bool = False) -> bool:
    return store.add(entry(key, scope, size), long_tail=long_tail)


SIZE = entry("k00").size
"""Of one entry as the tests put it."""


def test_the_least_recently_used_goes_first() -> None:
    for scopes in (["u:x/1"] * 4, ["u:x/1", "u:x/2", "u:x/3", "u:x/4"]):
        store = Store(3 * SIZE, 1000, 1.0)
        for key, scope in zip(("k01", "k02", "k03"), scopes, strict=False):
            put(store, key, scope)
        assert store.get("k01", 0) is not None
        put(store, "k04", scopes[3])
        assert [key for key in ("k01", "k02", "k03", "k04") if store.get(key, 0) is None] == ["k02"]
        assert store.bytes == 3 * SIZE


def test_an_entry_that_is_too_large_is_not_kept() -> None:
    store = Store(100_000, 1000, 0.5)
    assert not put(store, "k", size=1001)
    assert put(store, "k", size=1000)
    assert not Store(SIZE, 1000, 0.5).add(entry("k"), long_tail=False)


def test_one_identity_fills_its_share_and_drives_out_only_its_own() -> None:
    store = Store(10 * SIZE, 1000, 0.3)
    put(store, "k00", "u:x/bob")
    for number in range(20):
        put(store, f"a{number:02}", "u:x/alice")
    assert store.get("k00", 0) is not None
    assert len(store) == 4
    assert store.get("a19", 0) is not None
    assert store.get("a16", 0) is None


def test_guests_together_may_fill_all_but_one_share() -> None:
    store = Store(10 * SIZE, 1000, 0.3)
    put(store, "k00", "u:x/bob")
    for number in range(20):
        put(store, f"g{number:02}", "guest")
    assert store.get("k00", 0) is not None
    assert len(store) == 8


def test_a_full_store_takes_a_list_of_the_long_tail_only_when_it_is_asked_for_again() -> None:
    store = Store(3 * SIZE, 1000, 1.0)
    for key in ("k01", "k02"):
        assert put(store, key)
    assert put(store, "t01", long_tail=True)
    for number in range(10, 30):
        assert not put(store, f"t{number}", long_tail=True)
    assert store.get("k01", 0) is not None
    assert put(store, "t10", long_tail=True)
    assert store.not_admitted == 20


def test_an_entry_that_changed_goes_and_one_that_is_being_written_stays_aside() -> None:
    store, counter = Store(10_000, 1000, 1.0), Counter()
    kept = entry("k", counter=counter)
    store.add(kept, long_tail=False)
    counter.value += 1 << 40
    assert store.get("k", 0) is None
    counter.value -= 1 << 40
    assert store.get("k", 0) is kept
    counter.value += 1
    assert store.get("k", 0) is None
    assert len(store) == 0


def test_labels_go_with_their_entries() -> None:
    store = Store(2 * SIZE, 1000, 1.0)
    put(store, "k01")
    store.label("k01", ("a/b", "c"))
    store.label("missing", ("a",))
    put(store, "k02")
    put(store, "k03")
    assert store.drop_labelled("a") == 0
    store.label("k03", ("a/b",))
    assert store.drop_labelled("a", "u:x/2") == 0
    assert store.drop_labelled("a", "u:x/1") == 1


_SCOPES = st.sampled_from(["guest", "*", "u:x/1", "u:x/2"])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 20), _SCOPES, st.integers(0, 3000), st.booleans()),
        st.tuples(st.just("get"), st.integers(0, 20), st.integers(0, 12)),
        st.tuples(st.just("label"), st.integers(0, 20), st.sampled_from(["a", "a/b", "c_d"])),
        st.tuples(st.just("drop"), st.sampled_from(["a", "c"]), st.one_of(st.none(), _SCOPES)),
        st.tuples(st.just("gzip"), st.integers(0, 20)),
        st.tuples(st.just("clear")),
    ),
    max_size=60,
)


@given(_STEPS)
def test_whatever_happens_the_books_are_right_and_the_bounds_hold(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    store = Store(12_000, 2500, 0.4)
    latest: dict[str, Entry] = {}
    for name, *given_ in steps:
        if name == "add":
            number, scope, size, long_tail = given_
            added = entry(f"k{number}{scope}", scope, size)
            if store.add(added, long_tail=long_tail):
                latest[added.key] = added
            assert size <= 2500 or store.get(added.key, 0) is not added
        elif name == "get":
            for scope in ("guest", "*", "u:x/1", "u:x/2"):
                found = store.get(f"k{given_[0]}{scope}", given_[1])
                assert found is None or (found is latest[found.key] and given_[1] < 10)
        elif name == "label":
            store.label(f"k{given_[0]}guest", (given_[1],))
        elif name == "drop":
            store.drop_labelled(given_[0], given_[1])
        elif name == "gzip":
            found = store.get(f"k{given_[0]}guest", 0)
            if found is not None:
                found.compressed()
        else:
            store.clear()
        held = [one for one in latest.values() if store._entries.get(one.key) is one]
        assert len(held) == len(store)
        assert store.bytes == sum(one.size for one in held) <= 12_000
        for scope in ("guest", "*", "u:x/1", "u:x/2"):
            filled = sum(one.size for one in held if one.scope == scope)
            assert filled <= (7200 if scope in ("guest", "*") else 4800)
