"""The experiment's settings that differ in their advantage."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from transformers import PreTrainedTokenizerFast

import kit
from capo_testbed import padded_tasks
from capo_testbed.experiment.questions import ADVANTAGES
from capo_testbed.experiment.settings import Scale, Setting, recipe_of
from capo_testbed.simulated import SimulatedJudge
from capo_trainer.algorithm import Advantage
from capo_trainer.recipe import Recipe
from capo_trainer.types import Prompt, SampledRollout, SampleRequest

SETTINGS = {setting.name: setting for setting in ADVANTAGES.settings}
OF_STORIES = [name for name in SETTINGS if "mixed" not in name]
MIXED = [name for name in SETTINGS if "mixed" in name]


def recipe(setting: Setting, tmp_path: Path) -> Recipe:
    return recipe_of(setting, 0, Scale(), tmp_path, tmp_path)


@pytest.mark.parametrize("names", [OF_STORIES, MIXED], ids=["stories", "mixed"])
def test_every_advantage_has_a_setting_of_its_own(names: list[str], tmp_path: Path) -> None:
    recipes = [recipe(SETTINGS[name], tmp_path) for name in names]
    assert {each.algorithm.advantage for each in recipes} == set(get_args(Advantage))
    # Nothing but the advantage differs between those that have a judge.
    judged = [each for each in recipes if each.credit.reward == "capo"]
    assert len(judged) == 6
    same = {"output": True, "algorithm": {"advantage"}}
    assert len({each.model_dump_json(exclude=same) for each in judged}) == 1


def test_the_simulated_judge_decides_by_the_checker_of_the_bed(tmp_path: Path) -> None:
    """Easy lines are right in the bed that has them, and wrong in the stories."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=kit.tokenizer("gpt2"))
    question = "Ann has 37 coins. Ann wins 25. How many coins now?"
    text = "37 + 25 = 62\n\n62 + 0 = 62\n\nThe answer is \\boxed{62}."
    request = SampleRequest(Prompt(0, question, "62"), [1], "rollout")
    rollout = SampledRollout(request, tokenizer.encode(text), text, True)
    wrong = {}
    for name in ("advantages-capo", "advantages-mixed-capo"):
        credit = recipe(SETTINGS[name], tmp_path).credit
        exact = credit.source_options | {"precision": 1.0, "recall": 1.0}
        judge = SimulatedJudge(credit.model_copy(update={"source_options": exact}), tokenizer)
        wrong[name] = judge.credit_all([rollout], [1.0]).credits[0].wrong
    assert wrong["advantages-mixed-capo"] == [False, False, False]
    assert wrong["advantages-capo"][1]
    assert padded_tasks.__name__ in str(credit.source_options["checker"])
