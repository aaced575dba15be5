"""Criteria over real HTTP, by the client and by the commands."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

import capo_wire as wire
from capo_client import CreditClient, Criterion
from capo_service.pipeline.deduplication import DeduplicatedJudge
from capo_service.settings import Settings
from kit import tokenizer
from kit_scripted import ScriptedEngine
from kit_service import Service, serving, settings

CAPO = str(Path(sys.executable).parent / "capo")
TEXT = "12 + 30 = 42\n\nhalf of it is WRONG 20\n\nso the answer is 7"
CRITERIA: list[dict[str, Any]] = [
    {"id": "halves", "text": 'It says "half".', "kind": "pitfall", "weight": 2},
    {"id": "answers", "text": 'It says "answer".'},
    {"id": "divides", "text": 'It says "divided by".', "kind": "bonus"},
]
BY_CRITERIA = {"scheme": "criteria"}


def rollout(**fields: Any) -> dict[str, Any]:
    return {"question": "What is 6*7?", "response": TEXT, "criteria": CRITERIA, **fields}


def credit(http: httpx.Client, *rollouts: Any, **options: Any) -> list[Any]:
    response = http.post("/credit", json={"rollouts": list(rollouts), **options})
    assert response.status_code == 200, response.text
    return list(response.json()["results"])


def test_the_vote_on_each_criterion_and_every_token_of_its_step(http: httpx.Client) -> None:
    ids = tokenizer("gpt2").encode(TEXT).ids
    [result] = credit(
        http,
        rollout(outcome=1.0, response_token_ids=ids, tokenizer="gpt2"),
        reward=BY_CRITERIA,
        include=["token_rewards", "critiques"],
    )
    assert [(c["id"], c["holds"], c["step"], c["reward"]) for c in result["criteria"]] == [
        ("halves", True, 1, -0.5),
        ("answers", True, None, 0.25),
        ("divides", False, None, 0.0),
    ]
    assert [step["reward"] for step in result["steps"]] == [2.25, 0.75, 2.25]
    for step in result["steps"]:
        start, end = step["token_span"]
        assert set(result["token_rewards"][start:end]) == {step["reward"]}
    assert len(result["token_rewards"]) == len(ids)
    assert result["critiques"][0]["criteria"][0] == {"id": "halves", "holds": True, "step": 1}
    [plain] = credit(http, rollout(outcome=1.0, criteria=None))
    assert plain["criteria"] is None


def test_the_scheme_needs_no_outcome(http: httpx.Client) -> None:
    [result] = credit(http, rollout(), reward={**BY_CRITERIA, "w_process": 0, "w_criteria": 4})
    assert result["outcome"] is None
    assert [step["reward"] for step in result["steps"]] == [1.0, -1.0, 1.0]


@pytest.mark.parametrize("method", ["greedy", "intersection", "majority", "union", "average"])
def test_every_method(http: httpx.Client, method: str) -> None:
    [result] = credit(http, rollout(), reward=BY_CRITERIA, voting={"method": method})
    assert [c["share"] for c in result["criteria"]] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("criteria", "field", "status"),
    [
        ([{"id": "a"}], "criteria[0].text", 422),
        ([{"id": "a", "text": "  "}], "criteria[0].text", 422),
        ([{"id": "a", "text": "t"}, {"id": "a", "text": "u"}], None, 422),
        ([{"id": str(i), "text": "t"} for i in range(1000)], "criteria", 413),
        ([{"id": "a", "text": "t" * 60_001}], "criteria", 413),
        ([{"id": "a", "text": "t", "weight": "NaN"}], "criteria[0].weight", 422),
        ([{"id": "a", "text": "t", "weight": 1e400}], "criteria[0].weight", 422),
        ([], "criteria", 422),
        (None, "criteria", 422),
        ({"a": "t"}, "criteria", 422),
        ([None], "criteria[0]", 422),
    ],
)
def test_bad_criteria_are_an_error_in_their_place(
    http: httpx.Client, criteria: Any, field: str | None, status: int
) -> None:
    body = json.dumps(
        {"rollouts": [rollout(criteria=criteria), rollout()], "reward": BY_CRITERIA}
    ).replace("Infinity", "1e400")
    answer = http.post("/credit", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    bad, good = answer.json()["results"]
    assert good["status"] == "ok"
    assert bad["error"]["status"] == status, bad
    assert bad["error"].get("field") == field, bad


def test_a_weight_that_is_no_number_of_json_is_named(http: httpx.Client) -> None:
    body = json.dumps({"rollouts": [rollout(criteria=[{**CRITERIA[0], "weight": float("nan")}])]})
    answer = http.post("/credit", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code == 200:
        assert answer.json()["results"][0]["error"]["field"] == "criteria[0].weight"
    else:
        assert answer.status_code == 400


def test_a_dropout_is_the_same_for_a_group_and_differs_by_question(http: httpx.Client) -> None:
    criteria = [{"id": str(i), "text": f'It says "{i}".'} for i in range(10)]
    given = [
        rollout(criteria=criteria, question=f"q{n}", response=f"{n}\n\n{m}")
        for n in range(4)
        for m in range(3)
    ]
    results = credit(http, *given, reward=BY_CRITERIA, voting={"criteria_dropout": 0.5})
    asked = [tuple(c["votes"]["asked"] > 0 for c in each["criteria"]) for each in results]
    assert all(asked[3 * n] == asked[3 * n + 1] == asked[3 * n + 2] for n in range(4))
    assert len(set(asked)) > 1 and all(any(each) for each in asked)
    for each in results:
        left_out = [c for c in each["criteria"] if c["label"] is None]
        assert all(c["votes"]["asked"] == 0 and c["reward"] == 0 for c in left_out)


def test_criteria_and_their_dropout_are_in_the_digest_of_a_result() -> None:
    judge = DeduplicatedJudge(None, None, "f", asyncio.Lock(), None)  # type: ignore[arg-type]

    def digest(dropout: float = 0.0, **given: Any) -> str:
        options = wire.CreditOptions(voting={"criteria_dropout": dropout})
        return judge._digest(wire.Rollout(**rollout(**given)), options)

    others = [
        digest(criteria=None),
        digest(criteria=CRITERIA[:2]),
        digest(criteria=[{**CRITERIA[0], "text": "other"}, *CRITERIA[1:]]),
        digest(criteria=[{**CRITERIA[0], "weight": 3}, *CRITERIA[1:]]),
        digest(criteria=[{**CRITERIA[0], "kind": "bonus"}, *CRITERIA[1:]]),
        digest(dropout=0.5),
    ]
    assert len({digest(), *others}) == 1 + len(others)
    assert digest() == digest(id="x")


def test_results_of_other_criteria_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda prompt, _: '{"incorrect_steps": [], "criteria": {"C0": "no"}}')
    with (
        serving(engine, settings(tmp_path, result_cache="memory")) as running,
        httpx.Client(base_url=running.url, timeout=60) as http,
    ):
        for name, cached in (("a", False), ("a", True), ("b", False)):
            criteria = [{"id": name, "text": "t"}]
            [result] = credit(http, rollout(criteria=criteria), reward=BY_CRITERIA)
            assert (result["cached"], result["criteria"][0]["id"]) == (cached, name)


def test_the_client_sends_criteria_as_objects_and_as_mappings(service: Service) -> None:
    objects = [Criterion(**each) for each in CRITERIA]
    rollouts: list[Any] = [
        rollout(),
        rollout(criteria=objects),
        wire.Rollout(**rollout(criteria=objects)),
    ]
    with CreditClient(service.url) as client:
        batch = client.credit(
            rollouts, reward={"scheme": "criteria"}, voting={"criteria_dropout": 0.0}
        )
    found = [result.model_dump(include={"criteria", "steps"}) for result in batch.credited]
    assert len(found) == 3 and found[0] == found[1] == found[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [CAPO, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_accept_files_with_criteria(service: Service, tmp_path: Path) -> None:
    file, out, folder = (tmp_path / name for name in ("r.jsonl", "out.jsonl", "tokenizer"))
    encoding = tokenizer("gpt2").encode(TEXT)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer("gpt2")).save_pretrained(folder)
    file.write_text(json.dumps(rollout(response_token_ids=encoding.ids)) + "\n")
    run("check-alignment", str(file), "--tokenizer", str(folder))
    file.write_text(json.dumps(rollout()) + "\n")
    run(
        "credit",
        str(file),
        "--out",
        str(out),
        "--url",
        service.url,
        "--scheme",
        "criteria",
        "--w-criteria",
        "2",
        "--criteria-dropout",
        "0",
    )
    result = json.loads(out.read_text().splitlines()[0])
    assert [c["reward"] for c in result["criteria"]] == [-1.0, 0.5, 0.0]
    run("prompt", str(file), "--out", str(tmp_path / "prompts.jsonl"), "--profile", "default")
    shown = json.loads((tmp_path / "prompts.jsonl").read_text())
    assert 'C0 (pitfall): It says "half".' in json.dumps(shown, indent=0).replace('\\"', '"')


def test_the_prompt_is_shown_with_the_criteria_that_are_judged(http: httpx.Client) -> None:
    voting = {"criteria_dropout": 0.5, "seed": 1}
    body = {"rollouts": [rollout()], "reward": BY_CRITERIA, "voting": voting}
    shown = http.post("/prompt", json=body).json()["messages"][1]["content"]
    [result] = credit(http, rollout(), reward=BY_CRITERIA, voting=voting)
    for criterion, found in zip(CRITERIA, result["criteria"], strict=True):
        line = f"{found['label']} ({found['kind']}): {criterion['text']}"
        assert (line in shown) == (found["label"] is not None)
        assert (criterion["text"] in shown) == (found["votes"]["asked"] > 0)


def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_criteria"):
        Settings(max_criteria=0)
    with (
        serving(ScriptedEngine(), settings(tmp_path, max_criteria=2)) as running,
        httpx.Client(base_url=running.url, timeout=60) as http,
    ):
        [result] = credit(http, rollout(), reward=BY_CRITERIA)
        assert "this service accepts 2 (setting max_criteria)" in result["error"]["detail"]
