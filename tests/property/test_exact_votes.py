"""Exact votes against full enumeration: of the lists that may follow a start, and of judges."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core.exact_votes import TOLERANCE, TokenChance, VerdictTree
from capo_service.core.verdicts.step_list import StepList
from kit_exact import TOKENS, RandomJudge, accepts_text


@lru_cache(maxsize=64)
def texts(n_steps: int) -> list[str]:
    """Every list of at most three steps, and the longest."""
    subsets = [c for size in range(4) for c in itertools.combinations(range(n_steps), size)]
    return [json.dumps(list(c))[1:] + "}" for c in (*subsets, tuple(range(n_steps)))]


def wrong_of(text: str) -> frozenset[int]:
    return frozenset(json.loads("[" + text[:-1]))


@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 11, 12])
def test_a_start_settles_what_all_lists_with_it_say(n_steps: int) -> None:
    found: dict[str, list[frozenset[int]]] = {}
    steps = range(n_steps)
    for bits in range(1 << n_steps):
        text = json.dumps([s for s in steps if bits >> s & 1])[1:] + "}"
        for end in range(len(text) + 1):
            found.setdefault(text[:end], []).append(wrong_of(text))
    empty = StepList(n_steps, 0, is_opened=True).start()
    for text, lists in random.Random(0).sample(sorted(found.items()), min(len(found), 2000)):
        wrong, open_from = empty.then(text).settled()
        assert wrong == frozenset.intersection(*lists)
        differ = frozenset.union(*lists) - wrong
        assert open_from == min(differ, default=open_from)
        assert not differ or open_from < n_steps


@pytest.mark.parametrize("n_steps", [1, 5, 12, 100])
def test_only_starts_of_lists_are_read(n_steps: int) -> None:
    chance = random.Random(n_steps)
    empty = StepList(n_steps, 0, is_opened=True).start()
    lists = texts(min(n_steps, 12)) + [
        json.dumps(sorted(chance.sample(range(n_steps), chance.randint(0, n_steps))))[1:] + "}"
        for _ in range(50)
    ]
    starts = {text[:end] for text in lists for end in range(len(text) + 1)}
    for text in chance.sample(sorted(starts), min(len(starts), 400)):
        start = empty.then(text)
        for character in "0123456789, ]}x":
            accepted = accepts_text(start, character)
            assert accepted == _is_start(text + character, n_steps), (text, character)


def _is_start(text: str, n_steps: int) -> bool:
    """Whether a list of ascending steps below `n_steps` begins so, by trying to complete it."""
    endings = ["", "}", "]}", " "]
    numbers = [str(step) for step in range(n_steps)]
    last = re.search(r"\d+$", text)
    tails = [n[len(last[0]) :] for n in numbers if n.startswith(last[0])] if last else numbers
    for tail in ["", *tails]:
        for space in ("", " "):
            for ending in endings:
                try:
                    steps = json.loads("[" + (text + space + tail + ending).removesuffix("}"))
                except ValueError:
                    continue
                whole = json.dumps(steps)[1:] + "}"
                ascending = steps == sorted(set(steps)) and all(0 <= s < n_steps for s in steps)
                if ascending and whole.startswith(text):
                    return True
    return False


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("n_steps", [1, 3, 12, 100])
def test_the_grammar_of_a_rest_allows_what_completes_a_list(n_steps: int, opened: bool) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    chance = random.Random(n_steps)
    shape = StepList(n_steps, 0, is_opened=opened)
    full = xgrammar.Grammar.from_ebnf(shape.grammar())
    for _ in range(40):
        size = chance.choice([0, 1, 2, 3, n_steps])
        listed = sorted(chance.sample(range(n_steps), min(size, n_steps)))
        text = shape.opening + json.dumps(listed)[1:] + "}"
        other = sorted(chance.sample(range(n_steps), min(chance.randint(0, 4), n_steps)))
        behind = json.dumps(other)[1:] + "}"
        cut = chance.randint(0, len(text))
        start = shape.start().then(text[:cut])
        rest = xgrammar.Grammar.from_ebnf(start.rest.grammar())
        assert accepts(rest, text[cut:])
        tails = [behind[at:] for at in range(len(behind))] + [text[cut:] + "}", " " + text[cut:]]
        for tail in chance.sample(tails, min(len(tails), 8)):
            assert accepts(rest, tail) == accepts(full, text[:cut] + tail), (text[:cut], tail)


@given(n_steps=st.sampled_from([1, 2, 9, 12, 100, 120]), data=st.data())
def test_the_bound_of_a_rest_is_its_longest_text(n_steps: int, data: st.DataObject) -> None:
    listed = data.draw(st.lists(st.integers(0, n_steps - 1), unique=True, max_size=5).map(sorted))
    text = json.dumps(listed)[1:] + "}"
    start = (
        StepList(n_steps, 0, is_opened=True)
        .start()
        .then(head := text[: data.draw(st.integers(0, len(text)))])
    )
    wrong, open_from = start.settled()
    longest = json.dumps(sorted(wrong | set(range(open_from, n_steps))))[1:] + "}"
    if longest.startswith(head):  # else the number at its end must become a longer one
        assert start.rest.max_tokens("structural_tag") == len(longest) - len(head) + 1
    assert start.rest.max_tokens("structural_tag") >= len(text) - len(head) + 1


judges = st.builds(
    RandomJudge, st.sampled_from([1, 2, 4, 12]), st.integers(0, 10_000), st.floats(0.2, 4)
)
chances = st.builds(TokenChance, st.sampled_from([0.5, 0.7, 1.0, 1.3]), st.sampled_from([0.9, 1.0]))


def read_all(tree: VerdictTree, judge: RandomJudge, most: int) -> int:
    """Read until the tree wants no more; how many requests that took."""
    reads = 0
    while wanted := tree.next_reads(most - reads):
        for each in wanted:
            assert each.ids is not None
            tree.add(each, *judge.greedy(each.ids))
            reads += 1
        total = sum(tree.votes().verdicts.values()) + sum(u.probability for u in tree._unread)
        assert total == pytest.approx(1, abs=1e-4)
    return reads


@given(judge=judges, chance=chances)
@settings(max_examples=60, deadline=None)
def test_shares_are_the_exact_marginals(judge: RandomJudge, chance: TokenChance) -> None:
    n_steps = judge.start.rest.n_steps
    tree = VerdictTree(judge.start, TOKENS.__getitem__, chance, "average")
    read_all(tree, judge, most=100_000)
    exact = [0.0] * n_steps
    for wrong, mass in judge.verdicts(chance):
        for step in wrong:
            exact[step] += mass
    votes = tree.votes()
    assert votes.decided
    for share, low, unknown, true in zip(
        votes.shares, votes.low, votes.unknown, exact, strict=True
    ):
        assert low - 1e-6 <= true <= low + unknown + 1e-6
        assert abs(share - true) <= TOLERANCE + 1e-6


@given(judge=judges, chance=chances, weight=st.sampled_from([0.0, 0.2]))
@settings(max_examples=60, deadline=None)
def test_stopping_changes_no_majority(
    judge: RandomJudge, chance: TokenChance, weight: float
) -> None:
    n_steps, false = judge.start.rest.n_steps, {0} if weight else set()
    exact = [0.0] * n_steps
    for wrong, mass in judge.verdicts(chance):
        for step in wrong:
            exact[step] += mass
    exact = [p + (1 - p) * weight if step in false else p for step, p in enumerate(exact)]
    tree = VerdictTree(
        judge.start, TOKENS.__getitem__, chance, "majority", True, false_steps=false, weight=weight
    )
    few = read_all(tree, judge, most=100_000)
    assert tree.votes().decided
    for penalty, true in zip(tree.votes().penalties("majority"), exact, strict=True):
        assert penalty == (true >= 0.5) or abs(true - 0.5) < 1e-5
    every = VerdictTree(judge.start, TOKENS.__getitem__, chance, "majority", early_stop=False)
    assert few <= read_all(every, judge, most=100_000) + 3  # reads that ran concurrently


@given(judge=judges, chance=chances, most=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_limit_of_reads_leaves_bounds(judge: RandomJudge, chance: TokenChance, most: int) -> None:
    tree = VerdictTree(judge.start, TOKENS.__getitem__, chance, "average")
    assert read_all(tree, judge, most) <= most
    votes = tree.votes()
    exact = [0.0] * judge.start.rest.n_steps
    for wrong, mass in judge.verdicts(chance):
        for step in wrong:
            exact[step] += mass
    for low, unknown, true in zip(votes.low, votes.unknown, exact, strict=True):
        assert low - 1e-6 <= true <= low + unknown + 1e-6
    assert votes.decided == (max(votes.unknown) <= TOLERANCE)


def test_the_nucleus_is_that_of_vllm() -> None:
    torch = pytest.importorskip("torch")
    topk = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler")
    chance = random.Random(3)
    for _ in range(200):
        logits = torch.tensor([[chance.gauss(0, 2) for _ in range(12)]])
        temperature, top_p = (
            chance.choice([0.3, 0.7, 1.0, 1.6]),
            chance.choice([0.2, 0.8, 0.9, 1.0]),
        )
        wanted = (
            topk.apply_top_k_top_p(logits / temperature, None, torch.tensor([top_p]))
            .softmax(-1)[0]
            .tolist()
        )
        given_logprobs = dict(enumerate(logits.log_softmax(-1)[0].tolist()))
        found, rest = TokenChance(temperature, top_p).of(given_logprobs)
        assert rest == 0
        assert [found.get(i, 0.0) for i in range(12)] == pytest.approx(wanted, abs=1e-5)


def test_what_is_not_returned_is_unknown() -> None:
    likely = {0: math.log(0.6), 1: math.log(0.3)}
    found, rest = TokenChance().of(likely)
    assert found == pytest.approx({0: 0.6, 1: 0.3}) and rest == pytest.approx(0.1)
    found, rest = TokenChance(0.5).of(likely)  # ten tokens of 0.01 weigh less than one of 0.1
    assert found[0] <= 0.36 / (0.36 + 0.09) and 0 < rest < 0.1
    assert TokenChance(1, 0.89).of(likely) == (pytest.approx({0: 2 / 3, 1: 1 / 3}), 0.0)
    assert TokenChance(1, 0.95).of(likely)[1] == pytest.approx(0.1)


@pytest.mark.parametrize("temperature", [1e-320, 1e-9, 0.001, 0.01])
def test_low_temperatures_are_those_of_vllm(temperature: float) -> None:
    logprobs = {1: -8.0, 2: -8.001, 3: -9.0}
    chances, rest = TokenChance(temperature, 1.0).of(logprobs)
    # vLLM samples at 0.01 at least.
    assert chances[2] / chances[1] == pytest.approx(math.exp(-0.1))
    assert chances.get(3, 0.0) < 1e-40 and sum(chances.values()) + rest == pytest.approx(1)
