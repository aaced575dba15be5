"""Laws of criteria: what a judge may say of them, the vote, its early end, and the rewards."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core.criteria import (
    CriterionCount,
    VotedCriterion,
    amounts,
    kept,
    rewards_by_step,
)
from capo_service.core.verdicts.base import CriterionKind, CriterionVerdict, Verdict
from capo_service.core.verdicts.step_list import StepList
from capo_service.core.vote_rules import Method
from capo_service.core.voting import JoinedVotes, VoteCount

METHODS = get_args(Method)
KINDS = get_args(CriterionKind)
END = "</s>"
VOCABULARY = list(
    dict.fromkeys(
        [
            *(chr(code) for code in range(32, 127)),
            *('"no', '"no"', '"whole"', '"C', ', "', '": ', "}}", '], "criteria": {"C0": ', "12"),
            *("é", "第", "\\frac", " the", '", "incorrect_steps": [', '{"analysis": "', "\n"),
            END,
        ]
    )
)


def counts(critiques: list[Verdict], n_steps: int, kinds: tuple[CriterionKind, ...]) -> VoteCount:
    readable = [critique.criteria for critique in critiques if critique.wrong is not None]
    votes = VoteCount.of([critique.wrong for critique in critiques], n_steps)
    return replace(
        votes,
        criteria=[
            CriterionCount.of(
                [each[i] for each in readable], n_steps if kind != "requirement" else 0
            )
            for i, kind in enumerate(kinds)
        ],
    )


def result(votes: VoteCount, method: Method) -> object:
    if not votes.valid:
        return "error"
    found = [(c.share(method), s) for c, s in JoinedVotes([votes]).criteria(method)]
    return tuple(votes.penalties(method)), tuple(found)


def answers(n_steps: int, kind: CriterionKind) -> list[CriterionVerdict]:
    steps = [] if kind == "requirement" else range(n_steps)
    return [CriterionVerdict(False), *(CriterionVerdict(True, s) for s in (None, *steps))]


def readable(n_steps: int, kinds: tuple[CriterionKind, ...]) -> st.SearchStrategy[Verdict]:
    each = st.tuples(*(st.sampled_from(answers(n_steps, kind)) for kind in kinds))
    wrong = st.frozensets(st.integers(0, n_steps - 1))
    return st.builds(lambda wrong, criteria: Verdict(wrong, criteria=criteria), wrong, each)


def verdicts(n_steps: int, kinds: tuple[CriterionKind, ...]) -> st.SearchStrategy[Verdict]:
    return st.just(Verdict(None, "unreadable")) | readable(n_steps, kinds)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None)
@given(data=st.data())
def test_a_criterion_is_fixed_exactly_when_no_critique_can_change_it(
    method: Method, data: st.DataObject
) -> None:
    """Every way that the remaining critiques can end is tried out."""
    n_steps, remaining = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    kind = data.draw(st.sampled_from(KINDS))
    steps = 0 if kind == "requirement" else n_steps
    options = answers(n_steps, kind)
    cast = data.draw(st.lists(st.sampled_from(options), min_size=1, max_size=6))
    ends = set()
    for more in itertools.product([None, *options], repeat=remaining):
        count = CriterionCount.of([*cast, *(each for each in more if each)], steps)
        share = count.share(method)
        ends.add((share, count.place if share else None))
    fixed = CriterionCount.of(cast, steps).is_fixed(method, remaining)
    if method == "average":
        assert not fixed  # never claimed, though all may agree already
    else:
        assert fixed == (len(ends) == 1)


@given(data=st.data(), method=st.sampled_from(METHODS), remaining=st.integers(1, 4))
def test_a_vote_is_decided_when_its_steps_and_its_criteria_are(
    data: st.DataObject, method: Method, remaining: int
) -> None:
    kinds: tuple[CriterionKind, ...] = ("pitfall", "requirement")
    cast = data.draw(st.lists(verdicts(2, kinds), min_size=1, max_size=6))
    votes = counts(cast, 2, kinds)
    steps = replace(votes, criteria=()).decided(method, remaining)
    criteria = all(each.is_fixed(method, remaining) for each in votes.criteria)
    assert votes.decided(method, remaining) == (steps and criteria)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None)
@given(data=st.data())
def test_waves_end_with_the_result_of_the_full_vote(method: Method, data: st.DataObject) -> None:
    n_steps, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    kinds = tuple(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)))
    every = data.draw(st.lists(verdicts(n_steps, kinds), min_size=k, max_size=k))
    taken = 0
    while not (votes := counts(every[:taken], n_steps, kinds)).decided(method, k - taken):
        wave = votes.next_wave(method, k - taken)
        assert 1 <= wave <= k - taken
        taken += wave
    assert result(votes, method) == result(counts(every, n_steps, kinds), method)


@given(data=st.data(), method=st.sampled_from(METHODS))
def test_a_criterion_holds_where_most_critiques_say_so(data: st.DataObject, method: Method) -> None:
    n_steps = data.draw(st.integers(1, 5))
    given_ = data.draw(st.lists(st.sampled_from(answers(n_steps, "bonus")), min_size=1))
    count = CriterionCount.of(given_, n_steps)
    named = [each.step for each in given_ if each.holds]
    assert (count.holds, count.valid) == (len(named), len(given_))
    if named:
        best = max(named.count(place) for place in named)
        places = [p for p in [*range(n_steps), None] if named.count(p) == best]
        assert count.place == places[0]
    else:
        assert count.place is None
    expected = {
        "greedy": len(named) == len(given_),
        "intersection": len(named) == len(given_),
        "majority": bool(named) and 2 * len(named) >= len(given_),
        "union": bool(named),
        "average": len(named) / len(given_),
    }[method]
    assert count.share(method) == float(expected)


@given(data=st.data(), method=st.sampled_from(METHODS))
def test_a_criterion_of_windows_holds_if_it_holds_in_any(
    data: st.DataObject, method: Method
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    kinds: tuple[CriterionKind, ...] = ("pitfall",)
    windows = [
        counts(data.draw(st.lists(readable(n, kinds), min_size=1, max_size=3)), n, kinds)
        for n in sizes
    ]
    [(count, step)] = JoinedVotes(windows).criteria(method)
    shares = [window.criteria[0].share(method) for window in windows]
    first = shares.index(max(shares))
    assert count.share(method) == max(shares)
    place = windows[first].criteria[0].place if max(shares) else None
    assert step == (None if place is None else place + sum(sizes[:first]))


CRITERIA = st.lists(
    st.builds(
        VotedCriterion,
        kind=st.sampled_from(KINDS),
        weight=st.floats(1e-6, 1e6),
        share=st.floats(0, 1),
        step=st.none() | st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


@given(criteria=CRITERIA, w=st.floats(0, 10), times=st.integers(1, 4), factor=st.floats(0.1, 10))
def test_rewards_do_not_grow_with_the_number_or_the_scale_of_criteria(
    criteria: list[VotedCriterion], w: float, times: int, factor: float
) -> None:
    rewards = rewards_by_step(criteria, w, 4)
    assert all(abs(reward) <= w * (1 + 1e-9) for reward in rewards)
    assert rewards_by_step(criteria * times, w, 4) == pytest.approx(rewards, abs=1e-9)
    scaled = [replace(each, weight=each.weight * factor) for each in criteria]
    assert rewards_by_step(scaled, w, 4) == pytest.approx(rewards, abs=1e-9)
    for each, amount in zip(criteria, amounts(criteria, w), strict=True):
        assert amount <= 0 if each.kind == "pitfall" else amount >= 0


@given(criteria=CRITERIA, barred=st.frozensets(st.integers(0, 3)))
def test_steps_that_are_counted_as_wrong_earn_nothing_from_criteria(
    criteria: list[VotedCriterion], barred: frozenset[int]
) -> None:
    free, held = rewards_by_step(criteria, 1.0, 4), rewards_by_step(criteria, 1.0, 4, barred)
    for step in range(4):
        assert held[step] <= 1e-12 if step in barred else held[step] == free[step]


@given(
    ids=st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=12),
    question=st.text(max_size=6) | st.just("\ud800"),
    dropout=st.floats(0, 0.999),
    seed=st.none() | st.integers(0, 99),
)
def test_dropout_depends_on_question_seed_and_id_alone_and_keeps_one(
    ids: list[str], question: str, dropout: float, seed: int | None
) -> None:
    stay = kept(ids, question, dropout, seed)
    assert stay == kept(ids, question, dropout, seed) == sorted(set(stay))
    assert bool(stay) == bool(ids)
    turned = ids[::-1]
    assert {turned[i] for i in kept(turned, question, dropout, seed)} == {ids[i] for i in stay}
    more = kept([*ids, "another id"], question, dropout, seed)
    if len(stay) > 1:
        assert [i for i in more if i < len(ids)] == stay
    assert kept(ids, question, 0.0, seed) == list(range(len(ids)))


SHAPES = st.builds(
    StepList,
    n_steps=st.integers(1, 12),
    analysis_tokens=st.sampled_from([0, 5]),
    criteria=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12).map(tuple),
)


@cache
def compiler() -> xgrammar.GrammarCompiler:
    info = xgrammar.TokenizerInfo(VOCABULARY, stop_token_ids=[VOCABULARY.index(END)])
    return xgrammar.GrammarCompiler(info, max_threads=1)


def compiled(shape: StepList, form: str) -> xgrammar.CompiledGrammar:
    if form == "grammar":
        return compiler().compile_grammar(shape.grammar())
    if form == "json_schema":
        schema = json.dumps(shape.json_schema())
        return compiler().compile_json_schema(schema, any_whitespace=False)
    elements = {"type": "sequence", "elements": shape.structure()}
    tag = {"type": "structural_tag", "format": elements}
    return compiler().compile_structural_tag(json.dumps(tag))


def walk(grammar: xgrammar.CompiledGrammar, seed: int) -> list[str]:
    """The pieces of a text that xgrammar's mask allows; seed 0 takes the shortest ones."""
    size, chance = len(VOCABULARY), random.Random(seed)
    mask, matcher = xgrammar.allocate_token_bitmask(1, size), xgrammar.GrammarMatcher(grammar)
    pieces: list[str] = []
    while not matcher.is_terminated():
        matcher.fill_next_token_bitmask(mask)
        bits = mask[0].tolist()
        allowed = [i for i in range(size) if bits[i // 32] >> (i % 32) & 1]
        if seed:
            token = chance.choice(allowed)
        else:
            token = min(allowed, key=lambda i: (len(VOCABULARY[i]), VOCABULARY[i]))
        assert matcher.accept_token(token)
        pieces.append(VOCABULARY[token])
        assert len(pieces) < 4000
    return pieces


@settings(deadline=None, max_examples=40)
@given(shape=SHAPES, seed=st.integers(0, 99), prefilled=st.booleans())
@pytest.mark.parametrize("form", ["structural_tag", "grammar"])
def test_every_text_that_is_allowed_fits_its_bound_and_is_read(
    form: Any, shape: StepList, seed: int, prefilled: bool
) -> None:
    rest = shape.opened() if prefilled else shape
    pieces = walk(compiled(rest, form), seed)
    assert len(pieces) <= rest.max_tokens(form), "".join(pieces)
    text = "".join(pieces[:-1])
    verdict = shape.read((shape.opening if prefilled else "") + text)
    assert verdict.wrong is not None, (verdict.reason, text)
    assert len(verdict.criteria) == len(shape.criteria)
    last = text[text.rindex('"criteria"') :]
    for number, (kind, found) in enumerate(zip(shape.criteria, verdict.criteria, strict=True)):
        said = "no" if not found.holds else "whole" if found.step is None else found.step
        assert f'"C{number}": {json.dumps(said)}' in last
        assert found.step is None or (kind != "requirement" and found.step < shape.n_steps)


def test_the_bound_of_a_verdict_with_criteria_has_no_slack() -> None:
    """All steps, and each criterion's longest verdict, one character a token."""
    shape = StepList(3, 4, criteria=("pitfall", "requirement"))
    text = '{"analysis": "é é ", "incorrect_steps": [0, 1, 2], "criteria": '
    text += '{"C0": "whole", "C1": "whole"}}'
    ids = [VOCABULARY.index(character) for character in text]
    matcher = xgrammar.GrammarMatcher(compiled(shape, "structural_tag"))
    assert all(matcher.accept_token(token) for token in [*ids, VOCABULARY.index(END)])
    assert matcher.is_terminated()
    assert len(ids) + 1 == shape.max_tokens("structural_tag")


@settings(deadline=None, max_examples=30)
@given(shape=SHAPES, seed=st.integers(1, 99))
def test_every_text_of_the_json_schema_is_read(shape: StepList, seed: int) -> None:
    """It may repeat steps; what it says of criteria is read exactly."""
    text = "".join(walk(compiled(replace(shape, analysis_tokens=0), "json_schema"), seed)[:-1])
    verdict = shape.read(text)
    assert verdict.wrong is not None, (verdict.reason, text)
    for value, found in zip(json.loads(text)["criteria"].values(), verdict.criteria, strict=True):
        assert found.holds == (value != "no")
        assert found.step == (value if isinstance(value, int) else None)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 6),
    st.floats(allow_nan=False),
    st.sampled_from(["no", "whole", "No", " yes ", "step 2", "maybe", "", "1, 2", "none"]),
    st.just([1]),
)


@given(
    given_=st.dictionaries(st.sampled_from(["C0", "C1", "c1", "C2", " C0", "q", ""]), VALUES)
    | st.fixed_dictionaries({"C0": VALUES, "C1": VALUES}),
    fenced=st.booleans(),
)
def test_a_critique_answers_every_criterion_and_no_other_or_is_refused(
    given_: dict[str, Any], fenced: bool
) -> None:
    text = json.dumps({"incorrect_steps": [], "criteria": given_}, indent=1)
    text = f"```json\n{text}\n```" if fenced else text
    verdict = StepList(4, 5, criteria=("pitfall", "requirement")).read(text)
    if verdict.wrong is None:
        assert verdict.reason and not verdict.criteria
        return
    assert sorted(key.strip().upper() for key in given_) == ["C0", "C1"]
    for key, value in given_.items():
        found = verdict.criteria[int(key.strip()[1])]
        assert found.holds == (str(value).strip().lower() not in ("no", "none", "false"))
        assert found.step is None or key.strip().upper() == "C0"
