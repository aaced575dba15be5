"""bench/votes_group.py asks for the verdicts of a group, and gives each rollout its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
pytest.importorskip("torch")
import group_judge
import votes_group

from capo_testbed import models, tasks
from capo_testbed.common import Solution, make_tasks, stream
from capo_testbed.models import TrainingExample

SIZE = group_judge.SIZE


@pytest.fixture(scope="module")
def group() -> group_judge.Group:
    rng = stream("votes group")
    [task] = make_tasks(rng, 1)
    return [Solution(task, tasks.demonstrate(task, rng, tasks.ALL_KINDS)) for _ in range(SIZE)]


def test_each_rollout_of_a_group_gets_its_own_verdict() -> None:
    text = '{"incorrect_steps": [1]}{"incorrect_steps": []}{"incorrect_steps": [0, 2]}'
    whole = f'{text}{{"incorrect_steps": [3]}}'
    assert votes_group.majority([[whole]], is_group=True) == [{1}, set(), {0, 2}, {3}]
    assert votes_group.majority([[text]], is_group=True) == [{1}, set(), {0, 2}, set()]


def test_critiques_of_a_group_vote_by_rollout() -> None:
    texts = [f'{{"incorrect_steps": [{n}]}}' * SIZE for n in (1, 1, 2)]
    assert votes_group.majority([texts], is_group=True) == [{1}] * SIZE


def test_a_joined_rollout_is_cut_as_it_was_joined(group: group_judge.Group) -> None:
    sent = votes_group.sent("q", [each.response for each in group], heading=True)
    parts = [sent["response"][first:end] for first, end in sent["steps"]]
    assert sum(part.startswith("Solution ") for part in parts) == SIZE
    wrong = [step for each in group for step in each.wrong()]
    flagged = {number for number, is_wrong in enumerate(wrong) if is_wrong}
    named = votes_group.cut(group, flagged)
    assert named == [{i for i, bad in enumerate(each.wrong()) if bad} for each in group]


def test_a_group_holds_the_question_once_and_every_verdict() -> None:
    texts = ["Ann has 3 pens.<step_0 a</step_0 <step_1 b</step_1 ?[0]", "[1, 2]"]
    tokenizer = models.wrap(models.train_tokenizer(texts * 50, [], 300))
    examples = []
    for number in range(SIZE):
        prompt = tokenizer.encode(f"Ann has 3 pens.<step_0 {number}</step_0 ?")
        verdict = tokenizer.encode(f"[{number}]")
        ids = [*prompt, *verdict, tokenizer.eos_token_id]
        at = 1 + [tokenizer.decode([token]) for token in prompt].index("<step_0 ")
        examples.append(TrainingExample(ids, len(prompt), marks=[(at, True)]))
    [joined] = group_judge.grouped(examples, tokenizer)
    text = tokenizer.decode(list(joined.ids))
    assert text.count("Ann has") == 1
    assert text.count("</step_0 ") == SIZE
    assert tokenizer.decode(list(joined.ids[joined.start : -1])) == "[0][1][2][3]"
    marked = [tokenizer.decode([joined.ids[at]]) for at, _ in joined.marks]
    assert marked == ["0", "1", "2", "3"]
