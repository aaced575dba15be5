"""Cut into pieces, a body says what it says whole."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capo_service.api import parsing
from capo_service.api.json_splitting import Pieces, split
from capo_service.api.problems import ProblemError

texts = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", '\\"', "[{", "}]", "rollouts", ",", "\n", "\ud800"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)
SIGNS = [bytes([sign]) for sign in b'"\\[]{},:x1 ']


@st.composite
def bodies(draw: st.DrawFn, fewest: int = 0) -> tuple[dict[str, Any], bytes]:
    around = draw(st.dictionaries(texts.filter(lambda t: t != "rollouts"), values, max_size=4))
    items = [*around.items(), ("rollouts", draw(st.lists(objects, min_size=fewest, max_size=5)))]
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


@st.composite
def broken(draw: st.DrawFn, text: bytes) -> bytes:
    """With one byte replaced or written twice."""
    at = draw(st.integers(0, len(text) - 1))
    into = draw(st.just(text[at : at + 1] * 2) | st.sampled_from(SIGNS))
    return text[:at] + into + text[at + 1 :]


def test_where_all_pieces_are_valid_the_body_is_and_says_the_same() -> None:
    compared = 0

    @given(bodies(fewest=1).flatmap(lambda body: broken(body[1])))
    @example(b'{"rollouts":[1,{}]}')
    @example(b'{"rollouts":[{} {}]}')
    @example(b'{"rollouts":[{},]}')
    @example(b'{"rollouts":[,{}]}')
    @example(b'{"rollouts":[{}],"rollouts":[]}')
    @example(b'{"rollouts":[{}],"rollout\\u0073":[]}')
    @example(b'{"a":{"rollouts":[{}]}}')
    @example(b'{"rollouts":[{}"]}')
    @example(b'["rollouts":[{}]]')
    @example(b'{"rollouts":[[}]}')
    def compare(text: bytes) -> None:
        pieces = split(text)
        if pieces is None:
            return
        try:
            rollouts = [json.loads(piece) for piece in pieces.rollouts]
            envelope = json.loads(pieces.envelope)
        except ValueError:
            return
        assert json.loads(text) == envelope | {"rollouts": rollouts}
        nonlocal compared
        compared += 1

    compare()
    assert compared >= 5, "nearly all bodies were refused, so nothing was compared"


spans = st.integers(0, 9).map(lambda at: [at, at + 1])


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, Any]:
    """A rollout that the service takes, unless its text holds a lone surrogate."""
    asked = draw(
        st.fixed_dictionaries({"question": texts})
        | st.fixed_dictionaries({"messages": st.just([{"role": "user", "content": "q"}])})
    )
    offsets = draw(st.lists(spans, max_size=4))
    ids = [{"response_token_ids": list(range(len(offsets))), "token_offsets": offsets}, {}]
    optional = {
        "id": texts,
        "reference": texts,
        "outcome": st.floats(0, 1),
        "steps": st.lists(spans, max_size=2),
    }
    more = draw(st.fixed_dictionaries({"response": texts}, optional=optional))
    items = [*asked.items(), *more.items(), *draw(st.sampled_from(ids)).items()]
    return dict(draw(st.permutations(items)))


options = st.fixed_dictionaries(
    {},
    optional={
        "voting": st.fixed_dictionaries({}, optional={"n": st.integers(1, 8)}),
        "include": st.just(["critiques", "token_rewards"]),
        "run": texts,
        "deadline_ms": st.integers(1, 1000),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is valid but for one rollout, one option, one byte, or nothing at all."""
    chosen = draw(st.lists(rollouts(), min_size=1, max_size=3))
    around = draw(options)
    fault = draw(st.sampled_from(["none", "none", "rollout", "option", "escape", "byte"]))
    if fault == "rollout":
        chosen[draw(st.integers(0, len(chosen) - 1))] = draw(objects | values)
    elif fault == "option":
        around |= draw(st.dictionaries(texts.filter(lambda t: t != "rollouts"), values, max_size=2))
    items = draw(st.permutations([*around.items(), ("rollouts", chosen)]))
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 0, 2]))
    text = json.dumps(dict(items), ensure_ascii=ascii_only, indent=indent)
    if fault == "escape":  # the same key twice, once written in another way
        other = json.dumps(draw(st.lists(rollouts(), max_size=1)))
        text = f'{text[:-1]}, "rollout\\u0073": {other}' + "}"
    body = text.encode("utf-8", "surrogatepass")
    if fault == "byte":
        body = draw(broken(body))
    return body


def test_a_large_request_is_read_as_a_small_one() -> None:
    seen: Counter[str] = Counter()

    def read(text: bytes) -> Any:
        try:
            batch = parsing.parse(text, 3)
        except ProblemError:
            return "refused"  # of several reasons, which comes first may differ
        return batch.options, batch.ids, [item.model_dump() for item in batch.items]

    def cut(text: bytes) -> Pieces | None:
        pieces = split(text)
        seen["cut"] += pieces is not None
        return pieces

    @given(requests())
    def compare(text: bytes) -> None:
        whole = read(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parsing, "_SPLIT_ABOVE", 0)
            patch.setattr(parsing, "split", cut)
            before = seen["cut"]
            assert read(text) == whole
        seen["all"] += 1
        if whole == "refused":
            seen["refused"] += 1
        elif seen["cut"] > before:
            statuses = {item.get("status", "valid") for item in whole[2]}
            seen.update(statuses)

    compare()
    # Were all requests refused, or none cut, each would have been compared with itself.
    assert seen["valid"] > 0.3 * seen["all"] and seen["error"] and seen["refused"], seen


def test_an_endless_string_is_looked_at_once() -> None:
    assert split(b'{"rollouts":[{"a":"' + b'\\"' * 1_000_000) is None
    assert split(b'{"rollouts":[' + b"[" * 1_000_000) is None
    assert split(b'{"rollouts":[{"a":[' + b"[1]," * 500_000 + b"{") is None
