"""Cut into pieces, a body says what it says whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capo_service.api import parsing
from capo_service.api.problems import ProblemError
from capo_service.api.splitting import split

texts = st.text(max_size=8) | st.sampled_from(['"', "\\", '\\"', "[{", "}]", "rollouts", ",", "\n"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    around = draw(st.dictionaries(texts.filter(lambda t: t != "rollouts"), values, max_size=4))
    items = [*around.items(), ("rollouts", draw(st.lists(objects, max_size=5)))]
    value = dict(draw(st.permutations(items)))
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 0, 2]))
    return value, json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    )


@given(bodies())
@example(({"": "rollouts", "rollouts": [{}]}, b'{"": "rollouts", "rollouts": [{}]}'))
@example(({"rollouts": [{}], "a": "rollouts"}, b'{"rollouts":[{}],"a":"rollouts"}'))
def test_pieces_hold_what_the_body_holds(body: tuple[dict[str, Any], bytes]) -> None:
    value, text = body
    pieces = split(text)
    if not value["rollouts"]:
        assert pieces is None
        return
    assert pieces is not None
    assert [json.loads(piece) for piece in pieces.rollouts] == value["rollouts"]
    assert json.loads(pieces.envelope) == value | {"rollouts": []}


def broken(text: bytes, at: int, into: bytes) -> bytes:
    at %= len(text) + 1
    return text[:at] + into + text[at + 1 :]


@given(
    bodies(),
    st.integers(0, 10**6),
    st.sampled_from(list(b'"\\[]{},:x1 ')).map(lambda b: bytes([b])),
)
@example(({}, b'{"rollouts":[1,{}]}'), 99, b" ")
@example(({}, b'{"rollouts":[{} {}]}'), 99, b" ")
@example(({}, b'{"rollouts":[{},]}'), 99, b" ")
@example(({}, b'{"rollouts":[{}],"rollouts":[]}'), 99, b" ")
@example(({}, b'{"a":{"rollouts":[{}]}}'), 99, b" ")
@example(({}, b'{"rollouts":[{}"]}'), 99, b" ")
@example(({}, b'["rollouts":[{}]]'), 99, b" ")
@example(({}, b'{"rollouts":[[}]}'), 99, b" ")
def test_where_all_pieces_are_valid_the_body_is_and_says_the_same(
    body: tuple[dict[str, Any], bytes], at: int, into: bytes
) -> None:
    text = broken(body[1], at, into)
    pieces = split(text)
    if pieces is None:
        return
    try:
        rollouts = [json.loads(piece) for piece in pieces.rollouts]
        envelope = json.loads(pieces.envelope)
    except ValueError:
        return
    assert json.loads(text) == envelope | {"rollouts": rollouts}


@given(
    bodies(),
    st.integers(0, 10**6),
    st.sampled_from(list(b'"\\[]{},:x1 ')).map(lambda b: bytes([b])),
)
def test_a_large_request_is_read_as_a_small_one(
    body: tuple[dict[str, Any], bytes], at: int, into: bytes
) -> None:
    text = broken(body[1], at, into)

    def read() -> Any:
        try:
            batch = parsing.parse(text, 3)
        except ProblemError:
            return "refused"  # of several reasons, which comes first may differ
        return batch.options, batch.ids, [item.model_dump() for item in batch.items]

    whole = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "_SPLIT_ABOVE", 0)
        assert read() == whole


def test_an_endless_string_is_looked_at_once() -> None:
    assert split(b'{"rollouts":[{"a":"' + b'\\"' * 1_000_000) is None
    assert split(b'{"rollouts":[' + b"[" * 1_000_000) is None
    assert split(b'{"rollouts":[{"a":[' + b"[1]," * 500_000 + b"{") is None
