"""What frameworks bring: masks, several turns, labels of every kind, answers of another length."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from capo_client import InvalidResponseError
from capo_client.adapters import areal, nemo_gym, scoring, slime
from capo_client.adapters.openrlhf import make_reward_func
from capo_client.adapters.scoring import Sample, Scorer
from capo_wire.aggregate import METRICS
from kit import tokenizer
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import Service, serving, settings

GPT2 = tokenizer("gpt2")
TURNS = [("I will look it up.", 1), ("\nThe tool says:\n#### 42\n", 0), ("I am not sure.", 1)]


def encoded(turns: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    ids, mask = [], []
    for text, own in turns:
        found = GPT2.encode(text).ids
        ids += found
        mask += [own] * len(found)
    return ids, mask


@pytest.fixture(scope="module")
def judge() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def seen(judge: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(judge, settings(tmp_path_factory.mktemp("seen"))) as running:
        yield running


@pytest.fixture
def scorer(seen: Service, judge: ScriptedEngine) -> Iterator[Scorer]:
    judge.prompts.clear()
    made = Scorer(seen.url, tokenizer=GPT2)
    yield made
    made.close()


@pytest.fixture
def default(seen: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scorer of adapters that take theirs from the environment."""
    monkeypatch.setenv("CAPO_URL", seen.url)
    monkeypatch.setenv("CAPO_OPTIONS", "{}")
    scoring._scorer_of.cache_clear()
    yield
    scoring._scorer_of.cache_clear()


def test_what_a_tool_wrote_is_no_step_and_no_answer(scorer: Scorer, judge: ScriptedEngine) -> None:
    ids, mask = encoded(TURNS)
    bare, whole = (
        Sample("q", ids=ids, mask=mask, reference="42"),
        Sample("q", ids=ids, reference="42"),
    )
    [scored] = scorer.score_now([bare])
    assert (scored.outcome, scored.reward, scored.steps) == (0.0, 0.0, 2)
    shown = [text for _, text in shown_steps(judge.prompts[0])]
    assert "look it up" in shown[0] and not any("The tool says" in text for text in shown)
    assert "The tool says" in judge.prompts[0]  # as an observation
    [scored] = scorer.score_now([whole])  # the same ids as the policy's own have that answer
    assert scored.outcome == 1.0


def test_masked_tokens_have_exactly_zero_and_no_part_in_the_mean(scorer: Scorer) -> None:
    ids, mask = encoded(TURNS)
    [scored] = scorer.score_now([Sample("q", ids=ids, mask=torch.tensor(mask), outcome=1.0)])
    assert scored.token_rewards == [2.0 * own for own in mask] and scored.reward == 2.0
    [scored] = scorer.score_now([Sample("q", ids=[], mask=[], outcome=1.0)])
    assert (scored.token_rewards, scored.source) == ([], "judge")


def test_a_mask_of_ones_sends_what_no_mask_sends(seen: Service) -> None:
    ids, _ = encoded(TURNS)
    for options in ({"tokenizer": GPT2}, {"tokenizer_name": "gpt2"}):
        scorer = Scorer(seen.url, **options)  # type: ignore[arg-type]
        builder = scorer.query_builder()
        bodies = [
            json.dumps(builder.build(0, Sample("q", ids=ids, mask=each, outcome=1.0)).body)
            for each in (None, [1] * len(ids))
        ]
        assert bodies[0] == bodies[1]
        assert ("tokenizer" in bodies[0]) == ("tokenizer_name" in options)
        scorer.close()


def test_a_masked_rollout_needs_no_tokenizer_here(seen: Service) -> None:
    ids, mask = encoded(TURNS)
    named = Scorer(seen.url, tokenizer_name="gpt2")
    [scored] = named.score_now([Sample("q", ids=ids, mask=mask, outcome=1.0)])
    assert scored.steps == 2 and len(scored.token_rewards or ()) == len(ids)
    named.close()


def test_a_row_that_cannot_be_sent_fails_alone(scorer: Scorer, seen: Service) -> None:
    ids, mask = encoded(TURNS)
    bad = [
        Sample("q", text="a"),
        Sample("q", text="a", reference=math.nan),
        Sample("q", text="a", reference={"target": ["4"]}),
        Sample("q", ids=ids, mask=mask[:-1], outcome=1.0),
        Sample("q", ids=ids, mask=[0] * len(ids), outcome=1.0),
    ]
    good = Sample("q", text="It is 4.", reference="4")
    *lost, found = scorer.score_now([*bad, good])
    assert found.reward == 2.0
    assert all(
        (each.source, each.reward, each.token_rewards) == ("none", None, None) for each in lost
    )
    said = [
        "neither a reference",
        "neither a reference",
        "of type dict",
        f"{len(ids) - 1} flags for {len(ids)}",
        f"none of the {len(ids)} token ids",
    ]
    for each, words in zip(lost, said, strict=True):
        assert words in (each.error or "") and each.metrics() == {"capo_fallback": 1.0}
    strict = Scorer(seen.url, tokenizer=GPT2, fallback="raise")
    for sample, words in zip(bad, said, strict=True):
        with pytest.raises(ValueError, match=words):
            strict.score_now([good, sample])
    strict.close()
    lenient = Scorer(seen.url, tokenizer=GPT2, fallback="outcome")
    assert [each.source for each in lenient.score_now(bad)] == ["none"] * 5
    lenient.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": [{"content": "q"}]}, "KeyError: 'role'"),
        ({"prompt": None}, "TypeError"),
        ({"ids": [None]}, "TypeError"),
        ({"ids": [-1]}, "OverflowError"),
        ({"prompt": []}, "messages"),
        ({"outcome": 2.0}, r"2\.0, which is not in \[0, 1\]"),
        ({"outcome": "x"}, "'x'"),
        ({"outcome": math.nan}, "neither a reference answer nor an outcome"),
    ],
)
def test_data_of_the_wrong_kind_fails_alone(
    seen: Service, given: dict[str, Any], said: str
) -> None:
    scorer = Scorer(seen.url, tokenizer=GPT2, fallback="outcome")
    bad = Sample(**{"prompt": "q", "text": "a", "outcome": 1.0} | given)
    lost, found = scorer.score_now([bad, Sample("q", text="It is 4.", reference="4")])
    assert found.reward == 2.0 and re.search(said, lost.error or "")
    assert lost.reward == (None if "outcome" in given else 2.0)
    scorer.close()


@pytest.mark.parametrize("more", [-1, 1])
def test_rewards_of_another_number_than_ids_are_an_error(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    ids, mask = encoded(TURNS)
    credit = scorer._client.credit

    async def skewed(*args: Any, **kwargs: Any) -> Any:
        results: Any = await credit(*args, **kwargs)
        given = results[0].token_rewards
        rewards = given[:-1] if more < 0 else [*given, 1.0]
        return [results[0].model_copy(update={"token_rewards": rewards})]

    monkeypatch.setattr(scorer._client, "credit", skewed)
    for each in (None, mask):
        sample = Sample("q", ids=ids, mask=each, outcome=1.0)
        count = len(ids)
        said = f"{count + more} token rewards for {count} token ids"
        scorer.fallback = "skip"
        [scored] = scorer.score_now([sample])
        assert scored.token_rewards is None and said in (scored.error or "")
        scorer.fallback = "outcome"
        [scored] = scorer.score_now([sample])
        assert scored.token_rewards == [2.0 * own for own in each or [1] * len(ids)]
        assert scored.source == "outcome" and scorer.counts["outcome"]
        scorer.fallback = "raise"
        with pytest.raises(InvalidResponseError, match=said):
            scorer.score_now([sample])


@pytest.mark.parametrize(("n", "agreed"), [(1, None), (2, 1.0)])
def test_one_critique_agrees_with_nothing(seen: Service, n: int, agreed: float | None) -> None:
    scorer = Scorer(seen.url, voting={"n": n})
    [scored] = scorer.score_now([Sample("q", text="a", outcome=1.0)])
    assert scored.agreement == agreed
    assert scored.metrics().get("capo_agreement") == agreed
    scorer.close()


LABELS = [(1e-7, "0.0000001"), (1e22, "1" + "0" * 22), (12.0, "12"), (0.5, "1/2"), (7, "7")]


@pytest.mark.parametrize(("label", "answer"), LABELS)
def test_a_label_that_is_a_number_is_that_number(
    scorer: Scorer, seen: Service, label: Any, answer: str
) -> None:
    text = f"It is so.\n\n#### {answer}"
    [scored] = scorer.score_now([Sample("q", text=text, reference=label)])
    assert scored.outcome == 1.0
    query = {"query": ["Q?" + text], "prompts": ["Q?"], "labels": [label]}
    assert httpx.post(f"{seen.url}/openrlhf", json=query).json()["scores"] == [1.0]
    sent = {"prompt": "Q?", "response": text, "label": label}
    assert httpx.post(f"{seen.url}/slime", json=sent).json() == 2.0
    found = make_reward_func(seen.url)(["Q?" + text], ["Q?"], [label])
    assert found["scores"].tolist() == [1.0]


def test_labels_of_another_kind_are_refused_by_the_routes(seen: Service) -> None:
    sent = {"prompt": "Q?", "response": "It is 4.", "label": {"target": "4"}}
    answer = httpx.post(f"{seen.url}/slime", json=sent)
    assert answer.status_code == 422 and "of type dict" in answer.json()["detail"]


def test_rows_that_can_never_be_sent_are_a_mistake_of_the_settings(seen: Service) -> None:
    """A wrong column's name must not train on nothing; one bad row must not stop a run."""
    scorer = Scorer(seen.url, voting={"n": 1})
    bad = Sample("Q?", text="a #### 1")
    assert [each.source for each in scorer.score_now([bad] * 63)] == ["none"] * 63
    with pytest.raises(ValueError, match=r"none of the first 64 .*name the data's column"):
        scorer.score_now([bad])
    other = Scorer(seen.url, voting={"n": 1})
    other.score_now([bad, Sample("Q?", text="a #### 1", reference="1")])
    assert {each.source for each in other.score_now([bad] * 100)} == {"none"}


def test_without_outcomes_openrlhf_filters_by_rewards(seen: Service) -> None:
    reward_func = make_reward_func(seen.url, reward={"scheme": "process_only"}, voting={"n": 1})
    found = reward_func(["Q?a", "Q?"], ["Q?", "Q?"], [None, None])
    assert "scores" not in found and set(found["extra_logs"]) < set(METRICS)
    rate = found["extra_logs"]["capo_wrong_step_rate"]  # the second has no step
    assert rate[0] == 0 and rate[1].isnan()
    sent = {"query": ["Q?a"], "prompts": ["Q?"]}
    answer = httpx.post(f"{seen.url}/openrlhf?scheme=process_only&n=1", json=sent).json()
    assert answer["scores"] == answer["rewards"] == [0.0]
    assert "capo_agreement" not in answer["extra_logs"]


def test_the_route_leaves_out_a_metric_that_is_not_known_of_all_rollouts(
    seen: Service, judge: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = itertools.count()

    def unsure(prompt: str, sampling: Any) -> str:
        readable = "second" in prompt or next(said) == 0
        return '{"incorrect_steps": []}' if readable else "?"

    monkeypatch.setattr(judge, "script", unsure)
    query = ["Q?the first", "Q?the second"]
    sent = {"query": query, "prompts": ["Q?"] * 2, "labels": ["1", "1"]}
    answer = httpx.post(f"{seen.url}/openrlhf?n=2", json=sent)
    logs = answer.json()["extra_logs"]  # OpenRLHF makes tensors of them
    assert "capo_agreement" not in logs and logs["capo_wrong_step_rate"] == [0.0, 0.0]


def slime_sample(turns: list[tuple[str, int]], **given: Any) -> Any:
    ids, mask = encoded(turns)
    fields = {
        "prompt": "q",
        "response": "".join(text for text, _ in turns),
        "label": "42",
        "tokens": [1, 2, *ids],
        "response_length": len(ids),
        "loss_mask": mask,
        "metadata": {},
    }
    return SimpleNamespace(**fields | given)


@pytest.mark.parametrize("options", [{}, {"tokenizer_name": "gpt2"}])
def test_slime_s_loss_mask(
    default: None, judge: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    monkeypatch.setenv("CAPO_OPTIONS", json.dumps(options))
    monkeypatch.setattr(slime, "_tokenizer", {"folder": GPT2}.__getitem__)
    judge.prompts.clear()
    args = SimpleNamespace(hf_checkpoint="folder")
    sample = slime_sample(TURNS)
    assert asyncio.run(slime.reward(args, sample)) == 0.0
    steps = [text for prompt in judge.prompts for _, text in shown_steps(prompt)]
    assert steps and not any("The tool says" in text for text in steps)
    assert sample.metadata["capo_token_rewards"] == [0.0] * sample.response_length
    assert sample.metadata["capo_steps"] == 2
    own = slime_sample(TURNS, loss_mask=None)
    assert asyncio.run(slime.reward(args, [own, sample])) == [2.0, 0.0]
    ones = slime_sample([("It is 42", 1)])
    assert asyncio.run(slime.reward(args, ones)) == 2.0
    assert (ones.metadata["capo_token_rewards"] is None) == (not options)


def test_slime_s_mask_of_an_older_policy(default: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sampled before a partial rollout went on is masked, and yet the policy's own."""
    given = {"partial_rollout": True, "mask_offpolicy_in_partial_rollout": True}
    sample = slime_sample([("It is 6 * 7.\n\n", 0), ("So 42", 1)])
    args = SimpleNamespace(hf_checkpoint="folder", **given)
    assert asyncio.run(slime.reward(args, sample)) == 2.0
    assert sample.metadata["capo_steps"] == 2
    args = SimpleNamespace(custom_generate_function_path="mine", **given)
    with pytest.raises(ValueError, match="mask-offpolicy-in-partial-rollout"):
        asyncio.run(slime.reward(args, sample))


def gym_body(*output: dict[str, Any], answer: Any = "42") -> dict[str, Any]:
    turns = [{"role": "user", "content": [{"type": "input_text", "text": "q"}]}]
    return {
        "responses_create_params": {"input": turns},
        "response": {"output": list(output)},
        "expected_answer": answer,
    }


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


CALL = {"type": "function_call", "name": "python", "arguments": "{}", "call_id": "c"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "42"}


def test_nemo_gym_s_answer_that_only_a_tool_wrote_is_none(default: None) -> None:
    body = gym_body(said("Let me compute."), CALL, RESULT, said("Done."))
    found = asyncio.run(nemo_gym.verify(body))
    assert (found["reward"], found["capo_steps"]) == (0.0, 2)
    silent = asyncio.run(nemo_gym.verify(gym_body(CALL, RESULT)))
    assert silent["reward"] == 0.0 and json.loads(json.dumps(silent, allow_nan=False))


def test_nemo_gym_s_messages_are_turns(default: None, judge: ScriptedEngine) -> None:
    judge.prompts.clear()
    user = {"type": "message", "role": "user", "content": "I say 42"}
    body = gym_body(said("12"), CALL, RESULT, user, said("5"), answer=5.0)
    found = asyncio.run(nemo_gym.verify(body))
    assert (found["reward"], found["capo_steps"]) == (2.0, 2)
    assert all("user: I say 42" in prompt for prompt in judge.prompts)  # as an observation
    body["expected_answer"] = 125
    assert asyncio.run(nemo_gym.verify(body))["reward"] == 0.0


def test_areal_reads_numbers(default: None) -> None:
    assert areal.reward_fn("q", "#### 0.0000001", [], [], answer=1e-7) == 2.0


def test_rollouts_are_written_for_the_inspector(
    seen: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rollouts.jsonl"
    monkeypatch.setenv("CAPO_ROLLOUTS_FILE", str(path))
    scorer = Scorer(seen.url, tokenizer=GPT2, tokenizer_name="gpt2", run="a", voting={"n": 2})
    ids, mask = encoded(TURNS)
    samples = [
        Sample("1 + 1?", ids=GPT2.encode("2").ids, outcome=1.0),
        Sample([{"role": "user", "content": "Who?"}], ids=ids, mask=mask, reference="42"),
        Sample("blank", text="  "),
    ]
    scored = scorer.score_now(samples)
    scorer.score_now([Sample("x" * 3_000_000, text="a", outcome=0.0)])
    scorer.close()
    named, turns, failed = (json.loads(line) for line in path.read_text().splitlines())
    assert (named["question"], named["response"], named["run"], named["outcome"]) == ("1 + 1?", "2", "a", 1.0)  # fmt: skip
    assert named["credit"]["token_rewards"] == scored[0].token_rewards
    assert len(named["credit"]["critiques"]) == 2 and named["method"] == "majority"
    assert turns["messages"] == samples[1].prompt and "I am not sure." in turns["response"]
    assert len(turns["response_token_ids"]) == len(turns["credit"]["token_rewards"])
    assert turns["response_mask"] == mask
    assert failed["credit"] is None and failed["error"]


def test_a_rollouts_file_that_cannot_be_written_stops_nothing(
    seen: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Scorer(seen.url, rollouts_file=str(tmp_path / "missing" / "rollouts.jsonl"))
    for _ in range(2):
        assert scorer.score_now([Sample("q", text="a", outcome=1.0)])[0].reward == 2.0
    scorer.close()
    told = [each for each in caplog.messages if "cannot be written" in each]
    assert len(told) == 1
