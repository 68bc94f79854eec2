"""Multipart bodies: parts in any cut of the bytes, and nothing that two readers could see differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapta.http.media import BadBody, boundary_of, parse_header
from hapta.http.multipart import MAX_PARTS, Event, MultipartReader, Part
from tests.gateway.bodies_house import multipart


def _read(content: bytes, size: int = 65536, boundary: str = "BB") -> list[tuple[Part, bytes]]:
    reader = MultipartReader(boundary)
    parts: list[tuple[Part, bytes]] = []
    for start in range(0, len(content), size):
        for event in reader.feed(content[start : start + size]):
            _take(parts, event)
    reader.finish()
    return parts


def _take(parts: list[tuple[Part, bytes]], event: Event) -> None:
    if isinstance(event, Part):
        parts.append((event, b""))
    elif isinstance(event, bytes):
        part, content = parts[-1]
        parts[-1] = (part, content + event)


@given(
    contents=st.lists(st.binary(max_size=60) | st.text("\r\n-B", max_size=30).map(str.encode), max_size=4),
    size=st.integers(1, 40),
)
def test_parts_come_out_as_they_went_in_whatever_the_cut(contents: list[bytes], size: int) -> None:
    boundary = "B-unlike-all-content"
    body = multipart(*[(f'name="f{n}"', content) for n, content in enumerate(contents)], boundary=boundary)
    read = _read(body, size, boundary)
    assert [(part.name, content) for part, content in read] == [
        (f"f{n}", content) for n, content in enumerate(contents)
    ]


@pytest.mark.parametrize(
    ("head", "name", "filename"),
    [
        ('name="a"', "a", None),
        ("name=a", "a", None),
        ('NAME="a"; FileName="x.txt"', "a", "x.txt"),
        ('name="a"; filename=""', "a", None),
        ('name="a"; filename="q\\"t.txt"', "a", 'q"t.txt'),
        ('name="a"; filename="C:\\dir\\x.txt"', "a", "C:\\dir\\x.txt"),
        ("name=\"a\"; filename*=utf-8''%C3%A9.txt", "a", "é.txt"),
        ('name="a"; filename="é;=.txt"', "a", "é;=.txt"),
        ("", "", None),
    ],
)
def test_a_part_is_known_by_its_disposition(head: str, name: str, filename: str | None) -> None:
    ((part, _),) = _read(multipart((head, b"x")))
    assert (part.name, part.filename) == (name, filename)


@pytest.mark.parametrize(
    "head",
    [
        'name="a"; name="b"',
        'name="a"; filename="x"; filename="y"',
        'name="a"; filename="x"; filename*=utf-8\'\'y',
        'name="a"; filename="x',
        "name=\"a\"; filename*=latin-1''y",
        'name="a" filename="x"',
        'name="a"\r\nContent-Disposition: form-data; name="b"',
        'name="a"\r\nContent-Transfer-Encoding: quoted-printable',
        'name="a"\r\nContent-Transfer-Encoding: base64',
        'name="a"; filename="' + "x" * 5000 + '"',
        'name="a"' + "\r\nX-A: 1" * 20,
        'name="a"\r\nno header',
    ],
)
def test_a_part_that_could_be_read_in_two_ways_is_refused(head: str) -> None:
    with pytest.raises(BadBody):
        _read(multipart((head, b"x")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        multipart(('name="a"', b"x"), end=False),
        multipart(('name="a"', b"x"), end=False) + b"--BB\r\n",
        multipart(('name="a"', b"x"), end=False) + b"--BB-",
        b'--BB\nContent-Disposition: form-data; name="a"\n\nx\n--BB--\n',
        multipart(('name="a"', b"x"), boundary="CC"),
    ],
)
def test_a_body_without_its_end_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        _read(body)


def test_what_stands_behind_the_end_is_nobodys() -> None:
    assert len(_read(multipart(('name="a"', b"x")) + multipart(('name="b"', b"y")))) == 1


def test_too_many_parts_are_refused() -> None:
    part = ('name="a"', b"")
    assert len(_read(multipart(*[part] * MAX_PARTS))) == MAX_PARTS
    with pytest.raises(BadBody):
        _read(multipart(*[part] * (MAX_PARTS + 1)))


@pytest.mark.parametrize(
    "value",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=BB; boundary=CC",
        b'multipart/form-data; boundary="B\xff"',
        b"multipart/form-data; boundary=" + b"B" * 71,
        b'multipart/form-data; boundary="B\\"B"',
        b'multipart/form-data; boundary="B "',
        b"; boundary=BB",
    ],
)
def test_a_boundary_that_is_not_plain_is_refused(value: bytes) -> None:
    with pytest.raises(BadBody):
        boundary_of(parse_header(value))


def test_a_boundary_may_be_quoted() -> None:
    assert boundary_of(parse_header(b'Multipart/Form-Data; charset=utf-8; Boundary="a b:c"')) == "a b:c"
