"""Several sequences of one trajectory, as agent loops return them, before a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from capo_client.adapters.scoring import Sample, Scorer
from capo_client.adapters.sequences import TokenSequence, join
from kit import tokenizer
from kit_scripted import ScriptedEngine, shown_steps
from kit_service import serving, settings

GPT2 = tokenizer("gpt2")


def critique(prompt: str, _: Any) -> str:
    wrong = [number for number, text in shown_steps(prompt) if "WRONG" in text]
    return json.dumps({"incorrect_steps": wrong})


@pytest.fixture(scope="module")
def judge() -> ScriptedEngine:
    return ScriptedEngine(critique)


@pytest.fixture(scope="module")
def scorer(judge: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with serving(judge, settings(tmp_path_factory.mktemp("sequences"))) as running:
        made = Scorer(running.url, tokenizer=GPT2)
        yield made
        made.close()


def test_a_wrong_turn_of_an_earlier_sequence_lowers_its_own_tokens(
    scorer: Scorer, judge: ScriptedEngine
) -> None:
    def ids(text: str) -> list[int]:
        found: list[int] = GPT2.encode(text).ids
        return found

    question, wrong, tool = ids("How many?"), ids("WRONG: 2 + 2 = 5."), ids("\nthe tool: 4\n")
    summary, answer = ids("\nA summary of the past\n"), ids("So 4.")
    sequences = [
        TokenSequence(question, wrong + tool, [1] * len(wrong) + [0] * len(tool)),
        TokenSequence(question + summary, answer, [1] * len(answer)),
    ]
    joined = join(sequences)
    [scored] = scorer.score_now(
        [Sample("How many?", ids=joined.ids, mask=joined.mask, reference="4")]
    )
    assert (scored.outcome, scored.steps, scored.wrong) == (1.0, 2, 1)
    assert scored.token_rewards is not None
    first, second = joined.split(scored.token_rewards)
    assert first == [1.0] * len(wrong) + [0.0] * len(tool)
    assert second == [2.0] * len(answer)
    [prompt] = set(judge.prompts)
    assert [text.strip() for _, text in shown_steps(prompt)] == ["WRONG: 2 + 2 = 5.", "So 4."]
    assert prompt.index("the tool: 4") < prompt.index("A summary of the past")
    assert prompt.count("A summary of the past") == 1
