"""Tokens as lengths: on the wire, and how the client chooses the form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy
import pytest

import capo_wire as wire
from capo_client import CreditClient, InvalidResponseError
from capo_wire.token_offsets import offsets_of
from kit import tokenizer
from kit_service import Service
from kit_stub import Answer, credited, stub

TEXT = "12 + 30 = 42 é\n\nhalf of it is WRONG 20 🏃\n\nso the answer is 7"
LENGTHS = [2, 3, 9, 0, 12, 10, 0, 0, len(TEXT) - 36]


def rollout(**fields: Any) -> dict[str, Any]:
    return {"question": "What is 6*7?", "response": TEXT, "outcome": 1.0, **fields}


def credit(http: httpx.Client, *rollouts: Any, **options: Any) -> list[Any]:
    response = http.post("/credit", json={"rollouts": list(rollouts), **options})
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def test_lengths_and_offsets_give_the_same_credit(http: httpx.Client) -> None:
    by_lengths, by_offsets = credit(
        http, rollout(token_lengths=LENGTHS), rollout(token_offsets=offsets_of(LENGTHS))
    )
    assert len(by_lengths["token_rewards"]) == len(LENGTHS)
    for name in ("steps", "token_rewards"):
        assert by_lengths[name] == by_offsets[name]


def test_lengths_go_with_ids(http: httpx.Client) -> None:
    ids = tokenizer("gpt2").encode("ab").ids + [0] * 20
    [result] = credit(http, rollout(response_token_ids=ids[: len(LENGTHS)], token_lengths=LENGTHS))
    assert len(result["token_rewards"]) == len(LENGTHS)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"token_lengths": [1, -1, 2]}, "token_lengths[1]", "token_lengths[1] = -1 is negative"),
        ({"token_lengths": [5, 5]}, "token_lengths", "add up to 10, but the response has"),
        ({"token_lengths": [1, 10**30]}, "token_lengths[1]", "token_lengths[1] = 1000000000000"),
        ({"token_lengths": [10**4299 * 9] * 2}, "token_lengths[0]", "more than the response has"),
        ({"token_lengths": []}, "token_lengths", "add up to 0"),
        ({"token_lengths": [1.5]}, "token_lengths[0]", "token_lengths[0]: Input should be a valid"),
        ({"token_lengths": [True]}, "token_lengths[0]", "should be a valid integer"),
        ({"token_lengths": "12"}, "token_lengths", "should be a valid list"),
        ({"token_lengths": LENGTHS, "token_offsets": [[0, 1]]}, None, "not both"),
        (
            {"token_lengths": LENGTHS, "response_token_ids": [1]},
            None,
            "has 1 ids but token_lengths",
        ),
        ({"token_lengths": [], "response": None}, None, "give response"),
        ({"token_lengths": [1] * 20_001}, "response", "20001 tokens; this service accepts 20000"),
    ],
)
def test_invalid_lengths_are_an_error_of_their_rollout(
    http: httpx.Client, fields: dict[str, Any], field: str | None, says: str
) -> None:
    failed, other = credit(http, rollout(**fields), rollout())
    assert failed["error"]["status"] in (413, 422), failed
    assert failed["error"]["field"] == field and says in failed["error"]["detail"]
    assert other["status"] == "ok"


def test_the_service_says_which_forms_it_knows(http: httpx.Client) -> None:
    assert http.get("/info").json()["token_forms"] == ["token_offsets", "token_lengths"]
    for accept in ("application/json", "application/x-ndjson"):
        sent = {"rollouts": [rollout()]}
        response = http.post("/credit", json=sent, headers={"Accept": accept})
        assert response.headers[wire.FORMS_HEADER] == "token_offsets, token_lengths"


def sent_rollouts(bodies: list[bytes]) -> list[dict[str, Any]]:
    return [each for body in bodies for each in json.loads(body)["rollouts"]]


def recording(*answers: Callable[[bytes], Answer]) -> tuple[list[bytes], Any]:
    """A stub's script that answers in turn, the last answer for all further requests."""
    bodies: list[bytes] = []
    left = list(answers)

    def answer(method: str, path: str, body: bytes) -> Answer:
        bodies.append(body)
        return (left.pop(0) if len(left) > 1 else left[0])(body)

    return bodies, answer


def knows_lengths(body: bytes) -> Answer:
    status, headers, text = credited(body)
    return status, {**headers, wire.FORMS_HEADER: "token_offsets, token_lengths"}, text


def refuses_lengths(body: bytes) -> Answer:
    """As a service without that field does."""
    lines = []
    for each in json.loads(body)["rollouts"]:
        assert "token_lengths" in each
        problem = {
            "type": "urn:capo:problem:invalid-rollout",
            "title": "Invalid",
            "status": 422,
            "detail": "token_lengths: unknown field",
            "field": "token_lengths",
        }
        lines.append(json.dumps({"id": each["id"], "status": "error", "error": problem}))
    return 200, {}, ("\n".join(lines) + "\n").encode()


GIVEN = [
    pytest.param({"token_offsets": offsets_of(LENGTHS)}, id="offsets"),
    pytest.param({"token_offsets": numpy.array(offsets_of(LENGTHS))}, id="array"),
    pytest.param({"token_lengths": LENGTHS}, id="lengths"),
    pytest.param({"token_lengths": numpy.array(LENGTHS)}, id="array of lengths"),
]


@pytest.mark.parametrize("fields", GIVEN)
def test_a_client_sends_lengths_once_it_knows_that_the_service_does(fields: dict[str, Any]) -> None:
    bodies, answer = recording(knows_lengths)
    with stub(answer) as server, CreditClient(server.url) as client:
        for _ in range(2):
            assert len(client.credit([rollout(**fields)], deadline=60).credited) == 1
    first, second = sent_rollouts(bodies)
    assert first["token_offsets"] == [list(span) for span in offsets_of(LENGTHS)]
    assert "token_lengths" not in first
    assert second["token_lengths"] == LENGTHS and "token_offsets" not in second


def test_offsets_that_leave_out_text_are_sent_as_they_are() -> None:
    bodies, answer = recording(knows_lengths)
    offsets = [[0, 2], [3, 12]]
    with stub(answer) as server, CreditClient(server.url) as client:
        for _ in range(2):
            client.credit([rollout(token_offsets=offsets)], deadline=60)
    assert [each["token_offsets"] for each in sent_rollouts(bodies)] == [offsets, offsets]


def test_an_old_service_gets_offsets() -> None:
    bodies, answer = recording(credited)
    with stub(answer) as server, CreditClient(server.url) as client:
        for _ in range(2):
            client.credit([rollout(token_lengths=LENGTHS)], deadline=60)
    assert all("token_offsets" in each for each in sent_rollouts(bodies))


def test_an_old_replica_behind_the_same_address_loses_no_rollout() -> None:
    bodies, answer = recording(knows_lengths, refuses_lengths, credited)
    with stub(answer) as server, CreditClient(server.url) as client:
        for _ in range(3):
            batch = client.credit([rollout(token_lengths=LENGTHS)], deadline=60)
            assert len(batch.credited) == 1
    assert ["token_lengths" in each for each in sent_rollouts(bodies)] == [
        False,
        True,
        False,
        False,
    ]


def test_a_client_asks_for_no_token_rewards_and_returns_them(service: Service) -> None:
    with CreditClient(service.url) as client:
        [mine] = client.credit([rollout(token_lengths=LENGTHS)], deadline=60)
        [without] = client.credit([rollout(token_lengths=LENGTHS)], deadline=60, include=[])
        [no_tokens] = client.credit([rollout()], deadline=60)
    [theirs] = credit(httpx.Client(base_url=service.url), rollout(token_lengths=LENGTHS))
    assert isinstance(mine, wire.Credited) and mine.token_rewards == theirs["token_rewards"]
    assert isinstance(without, wire.Credited) and without.token_rewards is None
    assert isinstance(no_tokens, wire.Credited) and no_tokens.token_rewards is None


def test_token_rewards_are_asked_for_where_a_field_is_not_known() -> None:
    """It may change what tokens get, as in a later version of the wire."""
    bodies, answer = recording(credited)
    with stub(answer) as server, CreditClient(server.url) as client:
        client.credit([rollout()], deadline=60, include=["token_rewards", "critiques"])
        client.credit([rollout(later=1)], deadline=60)
        client.credit([rollout(later=1)], deadline=60, include=["token_rewards", "critiques"])
    assert [json.loads(body).get("include") for body in bodies] == [
        ["critiques"],
        None,
        ["token_rewards", "critiques"],
    ]


def test_steps_that_do_not_have_all_tokens_are_an_invalid_response() -> None:
    def with_a_gap(body: bytes) -> Answer:
        status, headers, text = credited(body)
        result = json.loads(text.splitlines()[0])
        step = {
            "index": 0,
            "span": [0, 1],
            "wrong": False,
            "penalty": 0,
            "reward": 1.0,
            "votes": {"wrong": 0, "valid": 1, "asked": 1},
        }
        result["token_rewards"] = None
        result["steps"] = [{**step, "token_span": [0, 1]}, {**step, "token_span": [2, 3]}]
        return status, headers, json.dumps(result).encode() + b"\n"

    with (
        stub(lambda method, path, body: with_a_gap(body)) as server,
        CreditClient(server.url) as client,
        pytest.raises(InvalidResponseError, match="tokens 2 to 3 for step 0, after 1 tokens"),
    ):
        client.credit([rollout(token_lengths=LENGTHS)], deadline=60)
