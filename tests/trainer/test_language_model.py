"""The runner of the SmolLM2 question, with a stand-in of a few thousand weights for SmolLM2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capo_testbed.experiment import language_model, runs
from capo_testbed.experiment.settings import run_folder
from capo_trainer.recipe import Recipe

GRPO, CAPO = language_model.LANGUAGE_MODEL.settings


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Recipe]:
    """The recipes that are run; each run is done at once."""
    found: list[Recipe] = []

    def run(recipe: Recipe) -> None:
        found.append(recipe)
        recipe.output.mkdir(parents=True)
        (recipe.output / runs.DONE).write_text("{}")

    class Served:
        def __enter__(self) -> str:
            return "http://127.0.0.1:9"

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(language_model, "run", run)
    monkeypatch.setattr(language_model, "_checker", lambda log: Served())
    return found


def test_both_arms_run_with_the_same_settings_but_for_the_credit(
    made: list[Recipe], tmp_path: Path
) -> None:
    language_model.run_all(2, tmp_path)
    assert [recipe.output for recipe in made] == [
        run_folder(tmp_path, setting, seed) for seed in range(2) for setting in (GRPO, CAPO)
    ]
    grpo, capo = (recipe.model_dump() for recipe in made[:2])
    assert (grpo["credit"]["reward"], capo["credit"]["reward"]) == ("outcome", "capo")
    assert (grpo["algorithm"]["advantage"], capo["algorithm"]["advantage"]) == ("grpo", "capo")
    for name in ("policy", "data", "sampling", "optimiser", "evaluation", "steps", "seed"):
        assert grpo[name] == capo[name], name
    assert (made[0].steps, made[0].evaluation.every, made[2].seed) == (50, 10, 1)
    assert made[1].credit.url == "http://127.0.0.1:9"
    questions = made[0].data.prompts.read_text().splitlines()
    assert json.loads(questions[0]).keys() == {"question", "answer"}


def test_runs_that_are_done_are_kept(made: list[Recipe], tmp_path: Path) -> None:
    language_model.run_all(1, tmp_path)
    language_model.run_all(2, tmp_path)
    assert [recipe.seed for recipe in made] == [0, 0, 1, 1]
    language_model.run_all(2, tmp_path)
    assert len(made) == 4
    language_model.run_all(3, tmp_path, only=["smollm2-capo"])
    assert [recipe.output.parent.name for recipe in made[4:]] == ["smollm2-capo"]


def test_what_was_expected_is_written() -> None:
    assert all(setting.expected and setting.seeds == 3 for setting in (GRPO, CAPO))
