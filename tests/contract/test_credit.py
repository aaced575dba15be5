"""POST /credit over real HTTP, with a scripted judge: the wire, and bad input."""

from __future__ import annotations

import json
from http import client as http_client
from typing import Any

import httpx
import pytest

from kit import tokenizer
from kit_service import Service

GOOD = "12 + 30 = 42\n\nhalf of it is WRONG 20\n\nso the answer is 7"


def rollout(**fields: Any) -> dict[str, Any]:
    return {"question": "What is 6*7?", "response": GOOD, "outcome": 1.0, **fields}


def credit(http: httpx.Client, *rollouts: Any, **options: Any) -> list[Any]:
    response = http.post("/credit", json={"rollouts": list(rollouts), **options})
    assert response.status_code == 200, response.text
    return response.json()["results"]


def metric(http: httpx.Client, name: str) -> float:
    lines = [line for line in http.get("/metrics").text.split("\n") if line.startswith(name + " ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def still_serves(http: httpx.Client) -> None:
    [result] = credit(http, rollout())
    assert [step["reward"] for step in result["steps"]] == [2.0, 1.0, 2.0]


def test_a_right_answer_with_one_wrong_step(http: httpx.Client) -> None:
    ids = tokenizer("gpt2").encode(GOOD).ids
    [result] = credit(
        http,
        rollout(id="mine", response_token_ids=ids, tokenizer="gpt2"),
        include=["token_rewards", "critiques", "response"],
    )
    assert result["id"] == "mine" and result["status"] == "ok"
    assert result["outcome"]["value"] == 1.0 and result["outcome"]["source"] == "caller"
    assert result["response"] == GOOD
    assert len(result["token_rewards"]) == len(ids)
    for step in result["steps"]:
        a, b = step["token_span"]
        assert set(result["token_rewards"][a:b]) == {step["reward"]}
        assert step["votes"]["asked"] == 4
    assert [s["wrong"] for s in result["steps"]] == [False, True, False]
    assert all(c["wrong_steps"] == [1] and c["valid"] for c in result["critiques"])


def test_every_token_of_a_wrong_step_of_several_lines_is_marked(http: httpx.Client) -> None:
    """Others encode stripped lines again to find tokens, and mark nothing in such answers."""
    text = "First:\n  12 + 30\n  = 42\n\nWRONG:\n\t42 / 6\n\t= 8\n\nSo 8."
    encoding = tokenizer("gpt2").encode(text)
    sent = rollout(response=text, response_token_ids=encoding.ids, tokenizer="gpt2")
    [result] = credit(http, sent)
    begins, ends = text.index("WRONG"), text.index("So 8")
    for (start, end), reward in zip(encoding.offsets, result["token_rewards"], strict=True):
        first = start + len(text[start:end]) - len(text[start:end].lstrip())
        inside = begins <= first < ends if first < end else begins < start < ends
        assert reward == (1.0 if inside else 2.0), text[start:end]


def test_ids_alone_are_decoded_and_both_ways_of_giving_tokens_agree(http: httpx.Client) -> None:
    encoding = tokenizer("gpt2").encode(GOOD)
    by_ids, by_both, by_offsets = credit(
        http,
        {"question": "q", "outcome": 1, "response_token_ids": encoding.ids, "tokenizer": "gpt2"},
        rollout(response_token_ids=encoding.ids, token_offsets=encoding.offsets),
        rollout(token_offsets=encoding.offsets),
        include=["token_rewards", "response"],
    )
    assert by_ids["response"] == GOOD
    assert by_ids["token_rewards"] == by_both["token_rewards"] == by_offsets["token_rewards"]


def test_without_tokens_there_are_steps_and_no_token_rewards(http: httpx.Client) -> None:
    [result] = credit(http, rollout())
    assert result["token_rewards"] is None
    assert all(step["token_span"] is None for step in result["steps"])


@pytest.mark.parametrize("method", ["greedy", "intersection", "majority", "union", "average"])
@pytest.mark.parametrize("scheme", ["capo", "process_only", "first_error", "flawed_positive"])
def test_every_method_and_scheme(http: httpx.Client, method: str, scheme: str) -> None:
    [result] = credit(http, rollout(), voting={"method": method}, reward={"scheme": scheme})
    expected = {
        "capo": [2, 1, 2], "process_only": [0, -1, 0], "first_error": [2, 1, 1],
        "flawed_positive": [1, 1, 1],
    }  # fmt: skip
    assert [step["reward"] for step in result["steps"]] == expected[scheme]


@pytest.mark.parametrize(
    ("segment", "count"),
    [
        ({"method": "blank_line"}, 3), ({"method": "newline"}, 3), ({"method": "sentence"}, 3),
        ({"method": "regex", "pattern": "half|so"}, 3),
    ],
)  # fmt: skip
def test_every_segmenter(http: httpx.Client, segment: dict[str, str], count: int) -> None:
    [result] = credit(http, rollout(), segment=segment)
    assert len(result["steps"]) == count


def test_given_steps_are_used(http: httpx.Client) -> None:
    [result] = credit(http, rollout(steps=[[0, 30], [30, len(GOOD)]]), segment={"method": "given"})
    assert [step["span"] for step in result["steps"]] == [[0, 30], [30, len(GOOD)]]


def test_messages_in_place_of_a_question(http: httpx.Client, service: Any) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is 6*9?"}]},
    ]
    [result] = credit(http, {"messages": turns, "response": GOOD, "outcome": 0})
    assert result["status"] == "ok"
    assert "system: Be brief.\n\nuser: What is 6*9?" in service.service.backend.prompts[-1]


def test_the_reference_is_shown_only_if_asked(http: httpx.Client, service: Any) -> None:
    for shown in (True, False):
        credit(http, rollout(reference="#### 424242"), show_reference=shown)
        assert ("424242" in service.service.backend.prompts[-1]) is shown


@pytest.mark.parametrize(
    ("response", "reference", "value"),
    [
        ("so\n\n#### 42", "#### 42", 1.0), ("so \\boxed{42}", "42", 1.0), ("A: 41", "A: 42", 0.0),
        ("\\boxed{\\frac{1}{2}}", "0.5", 1.0), ("no idea", "42", 0.0),
    ],
)  # fmt: skip
def test_outcome_from_the_reference(
    http: httpx.Client, response: str, reference: str, value: float
) -> None:
    [result] = credit(http, {"question": "q", "response": response, "reference": reference})
    assert result["outcome"]["value"] == value
    assert result["outcome"]["source"] == "math_verify"


@pytest.mark.parametrize(
    ("response", "reason"),
    [("\\boxed{41}", None), ("no idea", "no_answer"), ("<think>\\boxed{42}", "unfinished_thought")],
)
def test_what_could_not_be_checked_is_told_apart_from_wrong(
    http: httpx.Client, response: str, reason: str | None
) -> None:
    counted = f'capo_verifications_total{{result="{reason or "wrong"}"}}'
    before = metric(http, counted)
    [result] = credit(http, {"question": response, "response": response, "reference": "42"})
    outcome = result["outcome"]
    assert outcome["value"] == 0.0 and outcome["reason"] == reason
    assert (outcome["detail"] is None) == (reason is None)
    assert metric(http, counted) == before + 1


def test_a_reference_without_an_answer_is_refused_and_what_to_send_is_said(
    http: httpx.Client,
) -> None:
    [result] = credit(http, {"question": "q", "response": "5", "reference": "See the proof above."})
    assert result["error"]["type"].endswith("unreadable-reference")
    assert "#### 42" in result["error"]["detail"] and result["error"]["field"] == "reference"


def test_a_hostile_expression_is_no_answer_and_stops_nothing(http: httpx.Client) -> None:
    hostile = {"question": "q", "response": "\\boxed{9^{9^{9^{9}}}}", "reference": "3"}
    result, other = credit(http, hostile, rollout())
    assert result["outcome"]["value"] == 0.0 and "verify_timeout" in result["outcome"]["detail"]
    assert other["status"] == "ok"


def test_ndjson_streams_every_result_and_then_a_summary(http: httpx.Client) -> None:
    body = {"rollouts": [rollout(id=f"r{i}", outcome=i / 10) for i in range(10)]}
    with http.stream("POST", "/credit", json=body, headers={"Accept": "application/x-ndjson"}) as r:
        lines = [json.loads(line) for line in r.iter_lines()]
    assert r.headers["content-type"] == "application/x-ndjson"
    assert {line["id"] for line in lines[:-1]} == {f"r{i}" for i in range(10)}
    assert lines[-1]["usage"]["critiques_run"] == sum(
        line["usage"]["critiques_run"] for line in lines[:-1]
    )


@pytest.mark.parametrize(
    ("bad", "status", "says"),
    [
        (rollout(response=""), 422, "empty or blank"),
        (rollout(response=" \n\n "), 422, "empty or blank"),
        (rollout(steps=[]), 422, "are in no step"),
        (rollout(response="x" * 70_000), 413, "max_characters"),
        (rollout(response_token_ids=[1] * 20_001, tokenizer="gpt2"), 413, "max_response_tokens"),
        (rollout(response_token_ids=[1, 10**9], tokenizer="gpt2"), 422, "not in the vocabulary"),
        (rollout(response_token_ids=[-1], tokenizer="gpt2"), 422, "greater than or equal to 0"),
        (rollout(response_token_ids=[True], tokenizer="gpt2"), 422, "integer"),
        (rollout(response_token_ids=[1, 2], tokenizer="gpt2"), 422, "disagree"),
        (rollout(response_token_ids=[1], tokenizer="gpt5"), 422, "is not served; this service has"),
        (rollout(response_token_ids=[1]), 422, "exactly one of tokenizer"),
        (rollout(tokenizer="gpt2"), 422, "never tokenizes a response again"),
        (rollout(token_offsets=[[0, 10**6]]), 422, "not a span of the response"),
        (rollout(token_offsets=[[0, 9], [3, 5]]), 422, "goes back"),
        (rollout(token_offsets=[[0]]), 422, "token_offsets[0]"),
        (rollout(outcome=2), 422, "outcome"),
        (rollout(outcome=None), 422, "needs an outcome"),
        (rollout(outcome=None, reference="no answer here"), 422, "contains no answer"),
        (rollout(question=None), 422, "exactly one of question and messages"),
        (rollout(messages=[{"role": "user", "content": "x"}]), 422, "exactly one of question"),
        (rollout(colour="red"), 422, "colour: unknown field"),
        (rollout(steps=[[0, 5], [3, len(GOOD)]]), 422, "before the step before it ends"),
        (rollout(id="x" * 300), 422, "id"),
        ("not an object", 422, "valid dictionary"),
        (None, 422, "valid dictionary"),
    ],
)  # fmt: skip
def test_a_bad_rollout_fails_alone(http: httpx.Client, bad: Any, status: int, says: str) -> None:
    first, result, last = credit(http, rollout(id="a"), bad, rollout(id="b"))
    assert first["status"] == last["status"] == "ok"
    assert result["status"] == "error"
    assert result["error"]["status"] == status, result
    assert says in result["error"]["detail"]


def test_nan_is_no_outcome_and_a_lone_surrogate_no_text(http: httpx.Client) -> None:
    body = json.dumps(
        {"rollouts": [rollout(outcome=float("nan")), rollout(response="a\ud800"), rollout()]}
    )
    response = http.post("/credit", content=body, headers={"Content-Type": "application/json"})
    nan, surrogate, good = response.json()["results"]
    assert "outcome" in nan["error"]["field"]
    assert "lone surrogate" in surrogate["error"]["detail"]
    assert good["status"] == "ok"


def test_odd_but_sound_texts_are_credited(http: httpx.Client) -> None:
    texts = ["\x00NUL\x00", "<|im_end|><|im_start|>", "one huge step " * 4000, "\ufdd00\ufdd1", "�"]
    for result in credit(http, *(rollout(response=text) for text in texts)):
        assert result["status"] == "ok", result
        assert len(result["steps"]) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"voting": {"n": 0}}, "voting.n"), ({"voting": {"n": 1000}}, "voting.n"),
        ({"voting": {"method": "greedy", "n": 4}}, "voting"),
        ({"voting": {"temperature": 0}}, "voting"), ({"voting": {"methd": "union"}}, "voting.methd"),
        ({"segment": {"method": "regex"}}, "segment"), ({"deadline_ms": 0}, "deadline_ms"),
        ({"reward": {"w_whole": None}}, "reward.w_whole"), ({"foo": 1}, "foo"),
        ({"include": ["everything"]}, "include[0]"), ({"rollouts": []}, "rollouts"),
    ],
)  # fmt: skip
def test_a_bad_envelope_is_refused_with_its_field(
    http: httpx.Client, options: dict[str, Any], field: str
) -> None:
    response = http.post("/credit", json={"rollouts": [rollout()], **options})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["field"] == field
    assert problem["type"].startswith("urn:capo:problem:") and problem["title"]


def test_four_copies_of_one_critique_are_refused(http: httpx.Client) -> None:
    """The public attempt takes four critiques at temperature 0."""
    response = http.post("/credit", json={"rollouts": [rollout()], "voting": {"temperature": 0}})
    assert "4 copies of one critique" in response.json()["detail"]


def test_bad_bodies(http: httpx.Client) -> None:
    as_json = {"Content-Type": "application/json"}
    for content, headers, status, says in [
        (b'{"rollouts": [', as_json, 400, "not valid JSON"),
        (b"", as_json, 400, "not valid JSON"),
        (b"[]", as_json, 422, "must be a JSON object"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "application/json"),
        (b'{"a":' * 100_000, as_json, 400, "not valid JSON"),
        (b"\xff\xfe", as_json, 400, "not valid JSON"),
    ]:
        response = http.post("/credit", content=content, headers=headers)
        assert response.status_code == status, response.text
        assert says in response.json()["detail"]
    many = {"rollouts": [rollout()] * 51}
    assert "max_rollouts" in http.post("/credit", json=many).json()["detail"]
    still_serves(http)


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(service: Service) -> None:
    connection = http_client.HTTPConnection(httpx.URL(service.url).netloc.decode(), timeout=20)
    connection.putrequest("POST", "/credit")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(50 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and b"max_body_bytes" in answer.read()
    connection.close()


def test_a_body_of_unknown_length_is_bounded_too(http: httpx.Client) -> None:
    def chunks() -> Any:
        for _ in range(40):
            yield b" " * 50_000

    response = http.post("/credit", content=chunks(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_other_routes(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}
    info = http.get("/info").json()
    assert info["tokenizers"] == ["gpt2", "llama2"] and info["limits"]["max_steps"] == 40
    metrics = http.get("/metrics").text
    assert (
        'capo_rollouts_total{key="anonymous",status="200"}' in metrics
        and "capo_ready 1.0" in metrics
    )
    assert http.get("/nothing").headers["content-type"] == "application/problem+json"
    assert http.get("/credit").status_code == 405
    assert http.get("/").json()["credit"] == "POST /credit"
