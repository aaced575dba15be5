"""Exact votes through the pipeline: requests, usage, windows, the checker, and refusals."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

import capo_wire as wire
from capo_service.core.errors import InputError
from capo_service.core.exact_votes import TOLERANCE, TokenChance
from capo_service.core.verdicts.step_list import StepList
from capo_service.engine.base import CritiqueSampling, TokenPrompt
from capo_service.engine.vllm_config import top_logprobs
from capo_service.judges.loading import load_profile
from capo_service.observability.metrics import Telemetry
from capo_service.pipeline.assemble import credited
from capo_service.pipeline.batch import estimated_tokens
from capo_service.pipeline.critics import JudgeCritic
from capo_service.pipeline.critique_sampler import CritiqueSampler
from capo_service.pipeline.errors import NoValidCritiqueError
from capo_service.pipeline.exact_sampler import ExactSampler
from capo_service.pipeline.judge_prompt import JudgePrompter, JudgeTask
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prepared import Prepared
from capo_service.pipeline.prompt_view import PromptViewer
from capo_wire.aggregate import agreement
from kit_exact import ExactEngine, RandomJudge, table

STEPS = 4


def prepared(judge: RandomJudge, temperature: float = 0.7) -> Prepared:
    n_steps = judge.start.rest.n_steps
    shape = StepList(n_steps, 0, is_opened=True)
    sampling = CritiqueSampling(
        temperature, 0.9, shape.max_tokens("structural_tag"), 5, shape, top_logprobs=20
    )
    return Prepared(
        response="\n\n".join("abcdefghijkl"[:n_steps]),
        spans=[(3 * i, 3 * i + 1) for i in range(n_steps)],
        token_spans=None,
        style="verdict",
        task=JudgeTask(TokenPrompt([99]), sampling, shape),
    )


def credit(engine: ExactEngine, rollout: Prepared, **voting: Any) -> wire.Credited:
    options = wire.CreditOptions.model_validate({"voting": {"exact": True, **voting}})
    sampler = CritiqueSampler(JudgeCritic(engine, 8), exact=ExactSampler(engine, table()))
    ballots = asyncio.run(sampler.sample(rollout, options.voting))
    assert sampler.sampling == 0
    return credited(rollout, options, wire.Outcome(value=1.0, source="caller"), ballots)


def marginals(judge: RandomJudge, temperature: float = 0.7) -> list[float]:
    shares = [0.0] * judge.start.rest.n_steps
    for wrong, mass in judge.verdicts(TokenChance(temperature, 0.9)):
        for step in wrong:
            shares[step] += mass
    return shares


@pytest.mark.parametrize("seed", range(8))
def test_a_rollout_has_exact_shares(seed: int) -> None:
    judge = RandomJudge(STEPS, seed, 2.0)
    engine = ExactEngine(judge)
    result = credit(engine, prepared(judge), method="average", n=64)
    assert result.exact is not None and result.exact.decided
    for step, share in zip(result.steps, marginals(judge), strict=True):
        assert step.penalty == step.votes.share == pytest.approx(share, abs=TOLERANCE)
    assert result.usage.critiques_run == len(engine.requests)
    assert result.usage.completion_tokens == sum(
        len(judge.greedy(i)[0]) for i, _ in engine.requests
    )
    critiques = result.critiques or []
    shares = [critique.share or 0.0 for critique in critiques]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) + result.exact.unread == pytest.approx(1, abs=TOLERANCE)
    for critique in critiques:
        assert json.loads(critique.text)["incorrect_steps"] == critique.wrong_steps


def test_a_sure_judge_is_decided_by_one_request() -> None:
    judge = RandomJudge(STEPS, 1, 8.0)
    engine = ExactEngine(judge)
    result = credit(engine, prepared(judge))
    assert len(engine.requests) == 1 and result.exact is not None and result.exact.decided
    assert [s.wrong for s in result.steps] == [p >= 0.5 for p in marginals(judge)]


def test_the_limit_of_requests_is_kept_and_said() -> None:
    judge = next(j for s in range(50) if len(few(j := RandomJudge(12, s, 0.3))) > 3)
    engine = ExactEngine(judge)
    result = credit(engine, prepared(judge, 1.3), method="average", n=2, temperature=1.3)
    assert len(engine.requests) == 2
    assert result.exact is not None and not result.exact.decided and result.exact.unread > TOLERANCE
    assert all(0 <= (step.votes.share or 0.0) <= 1 for step in result.steps)


def few(judge: RandomJudge) -> list[Any]:
    engine = ExactEngine(judge)
    credit(engine, prepared(judge, 1.3), method="average", n=5)
    return engine.requests


def test_a_request_that_fails_counts_as_unread() -> None:
    judge = RandomJudge(STEPS, 3, 0.3)
    every = credit(ExactEngine(judge), prepared(judge, 1.3), method="average")
    engine = ExactEngine(judge, fails=frozenset({1}))
    result = credit(engine, prepared(judge, 1.3), method="average")
    assert result.exact is not None and every.exact is not None
    assert result.exact.unread > every.exact.unread and not result.exact.decided
    failed = [critique for critique in result.critiques or [] if not critique.valid]
    assert [critique.reason for critique in failed] == ["failed as asked"]
    with pytest.raises(NoValidCritiqueError, match="failed as asked"):
        credit(ExactEngine(judge, fails=frozenset({0})), prepared(judge))


@pytest.mark.parametrize("seed", range(4))
def test_the_checker_votes_with_its_weight_against_the_default_k(seed: int) -> None:
    judge = RandomJudge(STEPS, seed, 1.0)
    with_checker = replace(prepared(judge), false_equations={2: "1 + 1 = 3"}, symbolic_votes=4)
    result = credit(ExactEngine(judge), with_checker, method="average", n=16)
    wanted = marginals(judge)
    wanted[2] = (4 * wanted[2] + 4) / 8
    found = [step.votes.share for step in result.steps]
    assert found == pytest.approx(wanted, abs=TOLERANCE)
    assert (result.critiques or [])[-1].critic == "symbolic"
    by_majority = credit(ExactEngine(judge), with_checker, n=16)
    assert [step.wrong for step in by_majority.steps] == [share >= 0.5 for share in wanted]


def test_one_verdict_is_read_where_the_checker_decides_every_step() -> None:
    judge = RandomJudge(STEPS, 1, 1.0)
    every = dict.fromkeys(range(STEPS), "1 + 1 = 3")
    with_checker = replace(prepared(judge), false_equations=every, symbolic_votes=4)
    engine = ExactEngine(judge)
    result = credit(engine, with_checker, n=4)
    assert len(engine.requests) == 1 and all(step.wrong for step in result.steps)


def test_requests_that_were_not_needed_are_no_critiques_that_were_saved() -> None:
    judge = RandomJudge(STEPS, 1, 8.0)
    telemetry = Telemetry()
    telemetry.judged(credit(ExactEngine(judge), prepared(judge), n=16), "key")
    assert telemetry.registry.get_sample_value("capo_critiques_saved_total") == 0


def test_windows_have_votes_of_their_own() -> None:
    judge = next(j for s in range(99) if min(marginals(j := RandomJudge(2, s, 1.0))) > 0.1)
    whole = replace(prepared(RandomJudge(4, 0, 1.0)), task=None)
    parts = [
        replace(prepared(judge), spans=whole.spans[first : first + 2], first_step=first)
        for first in (0, 2)
    ]
    result = credit(ExactEngine(judge), replace(whole, parts=parts), method="average")
    shares = [step.votes.share for step in result.steps]
    assert shares == pytest.approx(marginals(judge) * 2, abs=TOLERANCE)
    critiques = result.critiques or []
    assert [each.judged_steps for each in critiques] == sorted(
        (2 * each.window, 2 * each.window + 2) for each in critiques
    )
    named = [{*(each.wrong_steps or ())} for each in critiques if each.window == 1]
    assert set.union(*named) == {2, 3}


def test_agreement_follows_the_shares() -> None:
    judge = RandomJudge(STEPS, 2, 1.0)
    result = credit(ExactEngine(judge), prepared(judge), method="average")
    shares = [step.votes.share or 0.0 for step in result.steps]
    assert agreement(result.steps) == pytest.approx(
        sum(max(share, 1 - share) for share in shares) / STEPS
    )


@pytest.mark.parametrize(
    ("voting", "says"),
    [
        ({"method": "union"}, "has no meaning"),
        ({"method": "intersection"}, "has no meaning"),
        ({"method": "greedy"}, "has no meaning"),
        ({"critique_style": "brief"}, "use critique_style verdict"),
        ({"thinking_tokens": 64}, "set thinking_tokens to 0"),
        ({"temperature": 0}, "raise temperature"),
        ({"temperature": 0, "n": 1}, "raise temperature"),
    ],
)
def test_what_has_no_meaning_is_refused(voting: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        wire.Voting.model_validate({"exact": True, **voting})
    wire.Voting.model_validate({"exact": True, "critique_style": "verdict", "thinking_tokens": 0})


def preparer(profile: str = "default", top_logprobs: int = 20, **policy: Any) -> Preparer:
    prompter = JudgePrompter(
        lambda prompt: TokenPrompt([99]),
        10_000,
        load_profile(profile),
        "structural_tag",
        b"secret",
        top_logprobs=top_logprobs,
    )
    return Preparer(prompter, {}, CritiquePolicy(**policy))


ROLLOUT = wire.Rollout(question="1 + 1?", response="It is 2.\n\nSo 2.", outcome=1.0)
CRITERION = wire.Criterion(id="a", text="short", kind="bonus")
EXACT = wire.CreditOptions(voting=wire.Voting(exact=True))


def test_a_profile_without_sampling_has_no_exact_votes() -> None:
    profile = replace(load_profile("default"), temperature=0.0)
    greedy = JudgePrompter(
        lambda prompt: TokenPrompt([99]), 10_000, profile, "structural_tag", b"s", top_logprobs=20
    )
    made = Preparer(greedy, {}, CritiquePolicy())
    with pytest.raises(InputError, match=r"set voting\.temperature"):
        made.prepare(ROLLOUT, EXACT)
    warm = wire.CreditOptions(voting=wire.Voting(exact=True, temperature=0.7))
    assert made.prepare(ROLLOUT, warm).task is not None


def test_the_prompt_of_exact_votes_can_be_shown() -> None:
    view = PromptViewer(preparer(), load_profile("default"), False).view(ROLLOUT, EXACT)
    assert "incorrect_steps" in view.messages[0].content
    assert "analysis" not in view.messages[0].content


def test_exact_votes_imply_the_style_verdict() -> None:
    task = preparer(style="full").prepare(ROLLOUT, EXACT).task
    assert task is not None and task.sampling.top_logprobs == 20
    assert isinstance(task.shape, StepList) and task.shape.analysis_tokens == 0
    sampled = preparer(style="full").prepare(ROLLOUT, wire.CreditOptions()).task
    assert sampled is not None and sampled.sampling.top_logprobs == 0


@pytest.mark.parametrize(
    ("made", "rollout", "says", "field"),
    [
        (preparer("first_error"), ROLLOUT, "use profile default", "voting.exact"),
        (preparer("paper"), ROLLOUT, "use profile default", "voting.exact"),
        (preparer(top_logprobs=0), ROLLOUT, "use engine vllm", "voting.exact"),
        (preparer(thinking=64), ROLLOUT, "thinking_tokens to 0", "voting.thinking_tokens"),
        (
            preparer(),
            ROLLOUT.model_copy(update={"criteria": [CRITERION]}),
            "send it without them",
            "criteria",
        ),
        (Preparer(None, {}, CritiquePolicy()), ROLLOUT, "engine symbolic", "voting.exact"),
    ],
)
def test_judges_without_exact_votes_say_so(
    made: Preparer, rollout: wire.Rollout, says: str, field: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        made.prepare(rollout, EXACT)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("mode", "most", "wanted"),
    [
        ("raw_logprobs", 20, 20),
        ("raw_logprobs", 5, 5),
        ("raw_logprobs", -1, 20),
        ("raw_logits", 20, 0),
        ("processed_logprobs", 20, 0),
    ],
)
def test_only_probabilities_at_temperature_1_are_asked_for(
    mode: str, most: int, wanted: int
) -> None:
    config: Any = SimpleNamespace(logprobs_mode=mode, max_logprobs=most)
    assert top_logprobs(config) == wanted


def test_admission_expects_few_requests() -> None:
    def size(**voting: Any) -> int:
        options = wire.CreditOptions.model_validate({"voting": voting})
        return estimated_tokens(ROLLOUT, options, lambda voting: 100)

    assert size(exact=True, method="average") == size(n=6)
    assert size(exact=True) == size(n=2) and size(exact=True, n=1) == size(n=1)


def test_every_read_goes_to_the_data_parallel_rank_of_its_question() -> None:
    groups: list[int] = []

    class Recording(ExactEngine):
        async def complete(self, request: str, prompt: Any, sampling: CritiqueSampling) -> Any:
            groups.append(prompt.group)
            return await super().complete(request, prompt, sampling)

    judge = RandomJudge(STEPS, 0, 2.0)
    rollout = prepared(judge)
    assert rollout.task is not None
    task = replace(rollout.task, prompt=TokenPrompt([99], group=7))
    rollout = replace(rollout, task=task)
    credit(Recording(judge), rollout, method="average")
    assert len(groups) > 1 and set(groups) == {7}
