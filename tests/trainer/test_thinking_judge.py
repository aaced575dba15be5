"""The testbed's judge that thinks: what it is trained on is what the service sends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_service.engine import testbed
from capo_service.engine.base import JudgePrompt
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.settings.fields import DEMO_JUDGE, THINKING_JUDGE, Settings
from capo_testbed import thinking_judge
from capo_testbed.common import Sizes, Solution
from capo_testbed.models import TrainingExample
from capo_testbed.tasks import read_task
from capo_testbed.thinking_judge import Recipe, lesson, thought, turn, with_markers

DEMO = testbed.folder(DEMO_JUDGE)
STORY = "Ann has 37 coins. Ann wins 25. Ann sells 8. Ann halves them. How many coins now?"
RESPONSE = (
    "37 + 25 = 52\n\n52 - 8 = 44\n\nSo it is 44.\n\n44 - 2 = 42\n\nThe answer is \\boxed{42}."
)
ROLLOUT = Solution(read_task(STORY), RESPONSE)
THOUGHT = (
    "<step_0 37 + 25 = 62, 52 wrong\n"
    "<step_1 52 - 8 = 44, 44\n"
    "<step_2 So it is 44., 44\n"
    "<step_3 44 / 2 = 22, 42 wrong\n"
    "<step_4 The answer is \\boxed{42}., 42\n"
)


def test_a_thought_computes_each_line_from_where_it_starts() -> None:
    assert thought(ROLLOUT) == THOUGHT
    assert ROLLOUT.wrong() == [True, False, False, True, False]


def test_the_markers_are_new_tokens_and_leave_the_others_as_they_are(tmp_path: Path) -> None:
    before = LlamaForCausalLM.from_pretrained(DEMO, dtype=torch.float32).state_dict()
    model, tokenizer = with_markers(DEMO)
    after = model.state_dict()
    rows = before["model.embed_tokens.weight"].shape[0]
    for name, weight in before.items():
        assert torch.equal(after[name][:rows] if weight.shape[0] == rows else after[name], weight)
    assert tokenizer.convert_tokens_to_ids(list(thinking_judge.MARKERS)) == [rows, rows + 1]


def test_the_judge_learns_what_the_service_sends(tmp_path: Path) -> None:
    tokenizer = with_markers(DEMO)[1]
    tokenizer.save_pretrained(tmp_path)
    encoder = PromptEncoder(str(tmp_path))
    prompt = JudgePrompt((("Name the wrong steps.", True),), ((STORY, False), ("?", True)))
    plain = encoder.encode(prompt).ids
    thinking = encoder.encode(JudgePrompt(prompt.system, prompt.user, thinking=True)).ids
    body = tokenizer.encode(THOUGHT, add_special_tokens=False)
    given, written, forced = turn(tokenizer, body)
    assert thinking == [*plain, *given]
    assert [*written[len(body) :], *forced] == list(encoder.thought_end.ids)
    cut = turn(tokenizer, body[:16], is_whole=False)
    assert cut == (given, body[:16], list(encoder.thought_end.ids))
    assert set(body).isdisjoint(encoder.thought_end.forbidden), "no token of a thought is forbidden"


def test_a_lesson_teaches_the_thought_and_no_end_that_the_budget_forces() -> None:
    tokenizer = with_markers(DEMO)[1]
    verdict = tokenizer.encode(ROLLOUT.verdict(), add_special_tokens=False)
    critique = TrainingExample([7, 8, 9, *verdict], 3, taught=[(1, 8)])
    body = tokenizer.encode(THOUGHT, add_special_tokens=False)
    whole, cut, none = (lesson(tokenizer, critique, body, n) for n in (len(body), 16, 0))
    texts = [tokenizer.decode(each.ids[3:]) for each in (whole, cut, none)]
    assert texts[0] == f"<think>\n{THOUGHT}</think>\n\n{ROLLOUT.verdict()}"
    assert texts[1] == f"<think>\n{tokenizer.decode(body[:16])}</think>\n\n{ROLLOUT.verdict()}"
    assert texts[2] == ROLLOUT.verdict()
    end = tokenizer.convert_tokens_to_ids("</think>")
    assert [token for _, token in whole.taught] == [8, *body, end]
    assert [token for _, token in cut.taught] == [8, *body[:16]]
    for each in (whole, cut, none):
        assert all(each.ids[place] == token for place, token in each.taught)
        assert list(each.ids[each.start :]) == verdict


@pytest.mark.timeout(300)
def test_it_is_trained_from_another_judge_and_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "capo-credit" / "testbed"
    for name in ("policy", "judge-f80"):
        shutil.copytree(DEMO, folder / name)
    assert not thinking_judge.is_made(folder, 0)
    recipe = Recipe(start="judge-f80", updates=2, rollouts=30)
    made = thinking_judge.build(folder, Sizes(batch=4, held_out=4), 0, lambda line: None, recipe)
    assert thinking_judge.is_made(folder, 0) and not thinking_judge.is_made(folder, 1)
    assert list(made["budgets"]) == [0, 16, 64, 256]
    found = testbed.folder(THINKING_JUDGE)
    assert json.loads((found / "quality.json").read_text())["recipe"]["updates"] == 2
    assert (found / "judge.j2").exists()
    assert Settings(model=THINKING_JUDGE).critique_style == "verdict"
