"""The judge that is simulated from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

import kit
from capo_service.core.vote_rules import share
from capo_testbed import tasks
from capo_testbed.simulated import WRONG_SHARE, SimulatedJudge, cut, token_spans, vote, wrong_spans
from capo_trainer.sections import CreditSection
from capo_trainer.types import Prompt, SampledRollout, SampleRequest, StepCredit
from capo_wire import VotingMethod

QUESTION = "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins now?"
RIGHT = "37 + 25 = 62\n\n62 - 8 = 54\n\n54 / 2 = 27\n\nThe answer is \\boxed{27}."
WRONG = "37 + 25 = 52\n\n52 - 8 = 44\n\n44 / 2 = 23\n\nThe answer is \\boxed{23}."
METHODS: tuple[VotingMethod, ...] = ("greedy", "intersection", "majority", "union", "average")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=kit.tokenizer("gpt2"))


def judged(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], **settings: object
) -> StepCredit:
    judge = SimulatedJudge(CreditSection.model_validate({"n": 1, **settings}), tokenizer)
    rollouts = []
    for number, text in enumerate(texts):
        request = SampleRequest(Prompt(0, QUESTION, "27"), [1], f"rollout {number}")
        rollouts.append(SampledRollout(request, tokenizer.encode(text), text, True))
    return judge.credit_all(rollouts, [0.0] * len(rollouts))


def test_the_oracle_penalises_exactly_the_wrong_lines(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tasks.check(QUESTION, tasks.split(WRONG)) == [True, False, True, False]
    credit = judged(tokenizer, [WRONG, RIGHT, "  "]).credits
    assert credit[0].wrong == [True, False, True, False] and sorted(credit) == [0, 1]
    assert not any(credit[1].penalties)
    ids = tokenizer.encode(WRONG)
    penalised = [i for i, p in zip(ids, credit[0].penalties, strict=True) if p]
    assert tokenizer.decode(penalised).split() == [
        "37",
        "+",
        "25",
        "=",
        "52",
        "44",
        "/",
        "2",
        "=",
        "23",
    ]


def test_rates_are_those_that_were_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    rates = {"precision": 0.6, "recall": 0.8}
    credit = judged(tokenizer, [WRONG] * 1500, source_options=rates).credits
    named = [sum(c.wrong[i] for c in credit.values()) / 1500 for i in range(4)]
    alarm = 0.8 * (0.4 / 0.6) * WRONG_SHARE / (1 - WRONG_SHARE)
    assert named == pytest.approx([0.8, alarm, 0.8, alarm], abs=0.04)


def test_systematic_errors_are_the_same_every_time(tokenizer: PreTrainedTokenizerFast) -> None:
    options = {"precision": 0.5, "recall": 0.5, "systematic": True}
    for method in METHODS:
        k = None if method == "greedy" else 8
        credit = judged(tokenizer, [WRONG] * 30, source_options=options, method=method, n=k)
        assert len({tuple(c.penalties) for c in credit.credits.values()}) == 1
        assert set(credit.credits[0].penalties) <= {0.0, 1.0}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_votes_are_those_of_the_service(method: VotingMethod, k: int) -> None:
    assert [vote(method, n, k) for n in range(k + 1)] == [share(method, n, k) for n in range(k + 1)]


def test_steps_can_be_cut_otherwise(tokenizer: PreTrainedTokenizerFast) -> None:
    offsets = tokenizer(WRONG, return_offsets_mapping=True)["offset_mapping"]
    wrong = {
        "line": [True, False, True, False],
        "pair": [True, True],
        "whole": [True],
        # From the middle of each line: the second part has the end of line 0, and so on.
        "misplaced": [True, True, True, True, False],
    }
    for steps, truth in wrong.items():
        spans = cut(WRONG, offsets, steps)  # type: ignore[arg-type]
        assert "".join(WRONG[a:b] for a, b in spans) == WRONG
        assert wrong_spans(QUESTION, WRONG, spans) == truth, steps
        parts = token_spans(WRONG, offsets, spans)
        assert parts[0][0] == 0 and parts[-1][1] == len(offsets)
    runs = token_spans(WRONG, offsets, cut(WRONG, offsets, "run"))
    assert {end - first for first, end in runs[:-1]} <= {5, 6, 7}
