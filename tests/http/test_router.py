"""The router: which spellings of a path reach which entry."""

from __future__ import annotations

import pytest

from hapta.http.router import Router


def make(*paths: str) -> Router[str]:
    router: Router[str] = Router()
    for path in paths:
        router.add("GET", path, path)
    return router


def test_a_fixed_path_wins_over_a_parameter() -> None:
    router = make("/vaults/{id}", "/vaults/new")
    assert router.match(b"/vaults/new") == ({"GET": "/vaults/new"}, {})
    assert router.match(b"/vaults/7") == ({"GET": "/vaults/{id}"}, {"id": "7"})


def test_an_encoded_slash_stays_inside_its_segment() -> None:
    router = make("/vaults/{id}")
    assert router.match(b"/vaults/a%2Fb") == ({"GET": "/vaults/{id}"}, {"id": "a/b"})
    assert router.match(b"/vaults/a/b") is None


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"vaults/7",
        b"/vaults/",
        b"//vaults/7",
        b"/vaults/%00",
        b"/vaults/%ff",
        b"/VAULTS/7",
        b"/vaults/7/",
        b"/%76aults",
    ],
)
def test_a_spelling_that_is_not_canonical_matches_nothing(path: bytes) -> None:
    assert make("/vaults/{id}", "/vaults").match(path) is None


def test_one_method_and_path_cannot_stand_in_the_table_twice() -> None:
    router = make("/a/{x}")
    with pytest.raises(ValueError, match="twice"):
        router.add("GET", "/a/{x}", "again")
    with pytest.raises(ValueError, match="same segment"):
        router.add("POST", "/a/{y}", "other name")


def test_parameters_in_several_segments_keep_their_names() -> None:
    router = make("/a/{x}/b/{y}")
    assert router.match(b"/a/1/b/%C3%A9") == ({"GET": "/a/{x}/b/{y}"}, {"x": "1", "y": "é"})
    assert router.match(b"/a/1/b") is None
