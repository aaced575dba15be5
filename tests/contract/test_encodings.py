"""Bodies that a caller or its proxy has compressed: read, or refused by name, and never a bomb."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_service.api.problems import ProblemError
from capo_service.api.request_body import _gunzip
from kit_service import body

LIMIT = 1 << 20  # of the service of these tests
TEXT = json.dumps(body()).encode()
JSON = {"Content-Type": "application/json"}


def post(
    http: httpx.Client, content: bytes, encoding: str, path: str = "/credit"
) -> httpx.Response:
    return http.post(path, content=content, headers={**JSON, "Content-Encoding": encoding})


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_gzipped_body_is_read(http: httpx.Client, encoding: str, stream: bool) -> None:
    accept = {"Accept": "application/x-ndjson"} if stream else {}
    headers = {**JSON, **accept, "Content-Encoding": encoding}
    answer = http.post("/credit", content=gzip.compress(TEXT), headers=headers)
    assert answer.status_code == 200, answer.text


def test_identity_members_and_padding_are_read(http: httpx.Client) -> None:
    assert post(http, TEXT, "identity").status_code == 200
    assert post(http, TEXT, "").status_code == 200
    two = gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]) + b"\0" * 512
    assert post(http, two, "gzip").status_code == 200


def test_other_routes_read_gzip_too(http: httpx.Client) -> None:
    sent = json.dumps({"prompt": "q", "response": "a #### 1", "label": "1"}).encode()
    assert post(http, gzip.compress(sent), "gzip", "/slime").status_code == 200


@pytest.mark.parametrize("encoding", ["zstd", "br", "deflate", "gzip, gzip", "base64"])
def test_other_encodings_are_refused_by_name(http: httpx.Client, encoding: str) -> None:
    answer = post(http, TEXT, encoding)
    assert answer.status_code == 415
    assert answer.json()["type"] == "urn:capo:problem:wrong-encoding"
    assert f"Content-Encoding '{encoding}'" in answer.json()["detail"]
    assert answer.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        gzip.compress(TEXT)[:-9],
        gzip.compress(TEXT)[:5],
        zlib.compress(TEXT),
        gzip.compress(TEXT) + b"more",
    ],
    ids=["text", "cut", "header", "zlib", "more behind it"],
)
def test_what_is_not_gzip_is_refused_as_that(http: httpx.Client, content: bytes) -> None:
    answer = post(http, content, "gzip")
    assert answer.status_code == 400 and "not valid gzip" in answer.json()["detail"]


def bomb(size: int, layers: int = 1) -> bytes:
    found = b" " * size
    for _ in range(layers):
        found = gzip.compress(found)
    return found


def test_a_bomb_is_refused_by_the_bytes_that_it_would_have(http: httpx.Client) -> None:
    for content in (bomb(LIMIT + 1), bomb(200 * LIMIT), bomb(LIMIT // 2) * 3):
        assert len(content) < LIMIT
        answer = post(http, content, "gzip")
        assert answer.status_code == 413 and "max_body_bytes" in answer.json()["detail"]
    assert post(http, TEXT.ljust(LIMIT), "identity").status_code == 200
    assert post(http, gzip.compress(TEXT.ljust(LIMIT)), "gzip").status_code == 200


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    content = bomb(64 << 20)
    tracemalloc.start()
    try:
        assert len(_gunzip(content, LIMIT)) == LIMIT + 1
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


def test_many_members_are_read_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = 0
    original = zlib.decompressobj

    class Counted:
        def __init__(self, **options: int) -> None:
            self._member = original(**options)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal handed
            handed += len(data)
            return self._member.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self._member, name)

    def bytes_handed(members: int) -> int:
        nonlocal handed
        handed = 0
        assert _gunzip(gzip.compress(b"") * members + gzip.compress(b"{}"), LIMIT) == b"{}"
        return handed

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    assert 0 < bytes_handed(8000) < 2.2 * bytes_handed(4000)


@given(st.lists(st.binary(max_size=200)), st.integers(0, 100))
def test_gunzip_undoes_gzip_or_says_too_much(parts: list[bytes], limit: int) -> None:
    whole = b"".join(parts)
    assert _gunzip(b"".join(map(gzip.compress, parts)), limit) == whole[: limit + 1]


@given(st.binary(max_size=400))
def test_garbage_is_never_anything_but_a_problem(content: bytes) -> None:
    for sent in (content, gzip.compress(content)[:-4], b"\x1f\x8b\x08" + content):
        try:
            assert len(_gunzip(sent, 1000)) <= 1001
        except ProblemError as error:
            assert error.problem.status == 400
