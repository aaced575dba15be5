"""Rollouts as JSON, whatever holds their ids."""

from __future__ import annotations

import array
import datetime
import json
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

from capo_client import ChatTurn, Rollout
from capo_client.encoding import UnsendableError, encode, question_of, tokens_of
from capo_wire.token_offsets import decode_with_offsets
from kit import tokenizer

ARRAYS: list[Callable[[Any], Any]] = [
    numpy.array,
    torch.tensor,
    lambda ids: numpy.array(ids, dtype=numpy.uint16),
    lambda ids: [numpy.int64(each) for each in ids],
    lambda ids: list(torch.tensor(ids)),
    lambda ids: (ids[0], *numpy.array(ids[1:])),
    lambda ids: numpy.array(ids, dtype=object),
]


@pytest.mark.parametrize("kind", ARRAYS)
def test_ids_and_offsets_may_be_arrays(kind: Callable[[Any], Any]) -> None:
    fields = {
        "question": "q",
        "response": "abc",
        "response_token_ids": kind([1, 2, 3]),
        "token_offsets": [kind([n, n + 1]) for n in range(3)],
        "outcome": kind([0, 1])[1],
    }
    sent = json.loads(encode(fields, "7").json(False))
    plain = {
        "question": "q",
        "response": "abc",
        "response_token_ids": [1, 2, 3],
        "token_offsets": [[0, 1], [1, 2], [2, 3]],
        "outcome": 1,
        "id": "7",
    }
    assert sent == plain
    checked = Rollout(**{**fields, "outcome": float(fields["outcome"])})
    assert checked == Rollout(**plain | {"id": None})
    assert tokens_of(fields) == 3 and question_of(fields) == "q"


def test_numbers_models_and_ranges() -> None:
    fields = {
        "messages": [ChatTurn(role="user", content="q")],
        "response_token_ids": range(3),
        "steps": numpy.array([[0, 1]]),
        "outcome": numpy.float32(0.5),
    }
    sent = json.loads(encode(fields, "0").json(False))
    assert sent["messages"] == [{"role": "user", "content": "q"}]
    assert sent["response_token_ids"] == [0, 1, 2] and sent["outcome"] == 0.5
    assert json.loads(encode({"x": array.array("i", [1])}, "0").json(False))["x"] == [1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outcome", float("nan")),
        ("outcome", numpy.float32("nan")),
        ("outcome", torch.tensor(float("inf"))),
        ("response", b"bytes"),
        ("response_token_ids", {1, 2}),
        ("reference", datetime.date(2026, 1, 1)),
        ("response", lambda: None),
        ("steps", object()),
        ("messages", [{("a", "tuple"): 1}]),
    ],
)
def test_what_is_no_json_is_named(field: str, value: Any) -> None:
    with pytest.raises(UnsendableError) as caught:
        encode({"question": "q", "response": "a", field: value}, "0")
    problem = caught.value.problem
    assert (problem.status, problem.field) == (422, field) and field in problem.detail


def test_what_refers_to_itself_or_is_no_rollout() -> None:
    endless: dict[str, Any] = {}
    endless["question"] = endless
    for value in (endless, None, "text", ["list"], 5):
        with pytest.raises(UnsendableError):
            encode(value, "0")  # type: ignore[arg-type]
        question_of(value), tokens_of(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [numpy.array, torch.tensor, lambda ids: list(torch.tensor(ids))])
def test_offsets_of_arrays_are_those_of_lists(kind: Callable[[Any], Any]) -> None:
    made = tokenizer("gpt2")
    ids = [*made.encode("1 + 1 = 2.\n\nünd 四").ids, 0, 0]
    made.add_special_tokens([made.id_to_token(0)])
    assert decode_with_offsets(made, kind(ids)) == decode_with_offsets(made, ids)
