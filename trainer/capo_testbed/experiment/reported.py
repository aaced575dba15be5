"""The questions of the report, in its order, and the command that makes the runs of each."""

from __future__ import annotations

from capo_testbed.experiment.language_model import LANGUAGE_MODEL
from capo_testbed.experiment.questions import QUESTIONS, Question, all_settings
from capo_testbed.experiment.settings import Setting

REPORTED: tuple[Question, ...] = (*QUESTIONS, LANGUAGE_MODEL)
# Questions whose runs another command makes.
_COMMANDS = {LANGUAGE_MODEL.name: "python -m capo_testbed.experiment.language_model"}


def command_of(question: Question) -> str:
    """Makes the runs of a question."""
    ours = f"python -m capo_testbed.experiment.runs --question {question.name}"
    return _COMMANDS.get(question.name, ours)


def reported_settings() -> list[Setting]:
    """Every setting of the report once."""
    others = [s for question in REPORTED if question.name in _COMMANDS for s in question.settings]
    return [*all_settings().values(), *others]
