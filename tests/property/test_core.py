"""Laws of segmenting, voting, rewards, verdicts and grammar."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
import xgrammar
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from capo_service.core import rewards, steps
from capo_service.core.errors import InputError
from capo_service.core.verdicts import free_text
from capo_service.core.verdicts.base import Verdict
from capo_service.core.verdicts.step_list import StepList
from capo_service.core.voting import VoteCount
from capo_trainer.evaluate import blank_line_steps

METHODS = ("greedy", "intersection", "majority", "union", "average")
SEGMENTERS = (steps.blank_line, steps.newline, steps.sentence)
TEXTS = st.lists(
    st.sampled_from(["a", "B", ".", "!", "。", "\n", "\n\n", " ", "\t", "1.", "e.g. ", '"', "\r\n", "\u3000"]),
    max_size=30,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("segmenter", SEGMENTERS)
@given(text=TEXTS)
def test_steps_tile_the_text_and_none_is_blank(segmenter: object, text: str) -> None:
    spans = segmenter(text)  # type: ignore[operator]
    assert bool(spans) == bool(text.strip())
    if spans:
        assert "".join(text[a:b] for a, b in spans) == text
        assert all(text[a:b].strip() for a, b in spans)
        assert steps.given(text, spans) == spans


@example(text="a\r\n\r\nb\r\n \t\r\nc")
@example(text="a\n\u3000\nb")
@given(text=TEXTS)
def test_trainer_and_service_split_the_same_steps(text: str) -> None:
    cut = [text[a:b].strip() for a, b in steps.blank_line(text)]
    assert [step.strip() for step in blank_line_steps(text)] == cut


@given(text=TEXTS, pattern=st.text(max_size=8), cut=st.sampled_from(["before", "after"]))
def test_any_pattern_tiles_the_text_or_is_refused(text: str, pattern: str, cut: str) -> None:
    try:
        spans = steps.by_pattern(text, pattern, cut)  # type: ignore[arg-type]
    except InputError as error:
        assert error.field == "segment.pattern"
        return
    assert "".join(text[a:b] for a, b in spans) == (text if text.strip() else "")


def critiques(n_steps: int) -> st.SearchStrategy[frozenset[int] | None]:
    return st.none() | st.frozensets(st.integers(0, n_steps - 1))


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_votes_are_those_of_the_paper(method: str, data: st.DataObject) -> None:
    n_steps = data.draw(st.integers(1, 4))
    cast = data.draw(st.lists(critiques(n_steps), min_size=1, max_size=7))
    valid = [c for c in cast if c is not None]
    votes = VoteCount.of(cast, n_steps)
    if not valid:
        with pytest.raises(ValueError, match="no valid critique"):
            votes.penalties(method)  # type: ignore[arg-type]
        return
    found = votes.penalties(method)  # type: ignore[arg-type]
    for step in range(n_steps):
        named = [step in critique for critique in valid]
        expected = {
            "greedy": all(named),
            "intersection": all(named),
            "majority": any(named) and sum(named) >= len(valid) / 2,
            "union": any(named),
            "average": sum(named) / len(valid),
        }[method]
        assert found[step] == pytest.approx(float(expected))


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None)
@given(data=st.data())
def test_a_vote_is_decided_exactly_when_no_further_critique_can_change_it(
    method: str, data: st.DataObject
) -> None:
    """Every way that the remaining critiques can end is tried out."""
    n_steps = data.draw(st.integers(1, 2))
    remaining = data.draw(st.integers(0, 3))
    cast = data.draw(st.lists(critiques(n_steps), min_size=1, max_size=5))
    subsets = [
        frozenset(c) for size in range(n_steps + 1)
        for c in itertools.combinations(range(n_steps), size)
    ]  # fmt: skip
    ends = set()
    for more in itertools.product([None, *subsets], repeat=remaining):
        votes = VoteCount.of([*cast, *more], n_steps)
        ends.add(
            tuple(votes.penalties(method)) if votes.valid else "error"  # type: ignore[arg-type]
        )
    votes = VoteCount.of(cast, n_steps)
    decided = votes.decided(method, remaining)  # type: ignore[arg-type]
    if method == "average" and remaining:
        assert not decided  # never claimed, though all may agree already
    else:
        assert decided == (len(ends) == 1)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_a_wave_is_as_small_as_could_decide_the_vote(method: str, data: st.DataObject) -> None:
    n_steps, remaining = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    cast = data.draw(st.lists(critiques(n_steps), max_size=6))
    votes = VoteCount.of(cast, n_steps)
    wave = votes.next_wave(method, remaining)  # type: ignore[arg-type]
    assert 1 <= wave <= remaining
    # Whoever samples wave after wave ends with a decided vote, or with every critique.
    taken = 0
    while remaining and not votes.decided(method, remaining):  # type: ignore[arg-type]
        wave = votes.next_wave(method, remaining)  # type: ignore[arg-type]
        more = data.draw(st.lists(critiques(n_steps), min_size=wave, max_size=wave))
        cast, remaining, taken = cast + more, remaining - wave, taken + wave
        votes = VoteCount.of(cast, n_steps)
    assert taken >= 0
    if method == "average":
        assert remaining == 0


@pytest.mark.parametrize(
    ("method", "k", "first"),
    [("intersection", 8, 1), ("majority", 4, 3), ("majority", 8, 5), ("union", 8, 8),
     ("average", 8, 8), ("greedy", 1, 1)],
)  # fmt: skip
def test_the_first_wave_of_a_rollout_without_wrong_steps(method: str, k: int, first: int) -> None:
    assert VoteCount([0, 0, 0], 0).next_wave(method, k) == first  # type: ignore[arg-type]


@given(
    outcome=st.floats(0, 1),
    penalties=st.lists(st.floats(0, 1), min_size=1, max_size=9),
    w_whole=st.floats(-5, 5),
    w_process=st.floats(-5, 5),
    sizes=st.lists(st.integers(0, 5), min_size=9, max_size=9),
)
def test_every_token_gets_equation_1_once(
    outcome: float, penalties: list[float], w_whole: float, w_process: float, sizes: list[int]
) -> None:
    edges = [0, *itertools.accumulate(sizes[: len(penalties)])]
    spans = list(itertools.pairwise(edges))
    per_step = rewards.step_rewards("capo", penalties, outcome, w_whole, w_process)
    found = rewards.token_rewards(per_step, spans, edges[-1])
    assert len(found) == edges[-1]
    for token, reward in enumerate(found):
        step = next(s for s, (a, b) in enumerate(spans) if a <= token < b)
        assert reward == outcome * w_whole - penalties[step] * w_process


@given(
    outcome=st.floats(0, 1),
    penalties=st.lists(st.floats(0, 1), min_size=1, max_size=9),
    w_whole=st.floats(-5, 5),
    w_process=st.floats(-5, 5),
)
def test_every_scheme_is_what_it_says(
    outcome: float, penalties: list[float], w_whole: float, w_process: float
) -> None:
    weights = outcome, w_whole, w_process
    steps = range(len(penalties))
    assert rewards.step_rewards("process_only", penalties, None, w_whole, w_process) == [
        pytest.approx(-w_process * penalty) for penalty in penalties
    ]
    assert rewards.step_rewards("first_error", penalties, *weights) == [
        pytest.approx(w_whole * outcome - w_process * max(penalties[: step + 1])) for step in steps
    ]
    flawed = w_whole * outcome - w_process * outcome * max(penalties)
    assert rewards.step_rewards("flawed_positive", penalties, *weights) == [
        pytest.approx(flawed) for _ in steps
    ]


def test_more_rewards_than_token_spans_are_an_error() -> None:
    with pytest.raises(ValueError, match="argument"):
        rewards.token_rewards([1.0, 2.0], [(0, 1)], 1)


@settings(max_examples=60, deadline=None)
@given(
    n_steps=st.integers(1, 30),
    style=st.sampled_from(["verdict", "brief", "full"]),
    data=st.data(),
)
def test_the_grammar_takes_every_verdict_and_max_tokens_suffices(
    n_steps: int, style: str, data: st.DataObject
) -> None:
    wrong = data.draw(st.sets(st.integers(0, n_steps - 1)))
    budget = data.draw(st.integers(1, 3000))
    shape = StepList.fitting(n_steps, style, budget, "grammar")  # type: ignore[arg-type]
    bare = StepList(n_steps, 0)
    assert (shape is None) == (bare.max_tokens("grammar") > budget)
    assume(shape is not None)
    assert shape is not None and shape.max_tokens("grammar") <= budget
    analysis = "x" * shape.analysis_characters
    fields = {"analysis": analysis} if analysis else {}
    text = json.dumps({**fields, "incorrect_steps": sorted(wrong)})
    assert accepts(shape.grammar(), text)
    rest = text.removeprefix(shape.opening)
    assert len(rest) < len(text)
    assert accepts(shape.opened().grammar(), rest)
    assert not accepts(shape.opened().grammar(), text)
    assert len(text) + 1 <= shape.max_tokens("grammar")
    assert len(rest) + 1 <= shape.opened().max_tokens("grammar")
    assert shape.read(text) == free_text.read(text, n_steps) == Verdict(frozenset(wrong))
    for bad in ([n_steps], [0, 0], [*sorted(wrong, reverse=True)] if len(wrong) > 1 else [-1]):
        assert not accepts(shape.grammar(), json.dumps({**fields, "incorrect_steps": bad})), (
            "a step that does not exist, twice, or out of order"
        )


def accepts(grammar: str, text: str) -> bool:
    """Whether the whole text is in the grammar, by the library that vLLM decodes with."""
    matcher = xgrammar.GrammarMatcher(_compiled(grammar), terminate_without_stop_token=True)
    return bool(matcher.accept_string(text) and matcher.is_terminated())


def _compiled(grammar: str) -> xgrammar.CompiledGrammar:
    vocabulary = [chr(code) for code in range(32, 127)] + ["</s>"]
    info = xgrammar.TokenizerInfo(
        vocabulary, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[len(vocabulary) - 1]
    )
    return xgrammar.GrammarCompiler(info).compile_grammar(grammar)


NUMBERS = st.lists(st.integers(-1, 5), max_size=3).map(lambda found: ", ".join(map(str, found)))
SAID = st.one_of(
    st.text(alphabet='<>/incorrect_steps 0123,-*[]{}":\n', max_size=20),
    NUMBERS,
    NUMBERS.map("<incorrect_steps>{}</incorrect_steps>".format),
    NUMBERS.map('{{"incorrect_steps": [{}]}}'.format),
    st.sampled_from(["<incorrect_steps>", "</incorrect_steps>", "</think>", "```", "none", "\n"]),
)


def test_any_critique_names_existing_steps_or_is_invalid() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300)
    @given(said=st.lists(SAID, max_size=6), n=st.integers(1, 9), truncated=st.booleans())
    def check(said: list[str], n: int, truncated: bool) -> None:
        found = free_text.read("".join(said), n, truncated=truncated)
        if found.wrong is None:
            assert found.reason
        else:
            assert found.wrong <= set(range(n))
        seen["unreadable" if found.wrong is None else "some" if found.wrong else "none"] += 1

    check()
    assert min(seen[kind] for kind in ("unreadable", "some", "none")) >= 3, seen
