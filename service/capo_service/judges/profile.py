"""A judge profile: prompt, form of the verdict, thinking and sampling of one kind of judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from capo_service.core.prompt import PromptTemplate
from capo_service.core.verdicts.base import ConstraintForm, CriterionKind, Style, VerdictShape
from capo_service.core.verdicts.boxed_steps import BoxedSteps
from capo_service.core.verdicts.first_error import ANSWER, FirstError
from capo_service.core.verdicts.free_text import FreeText
from capo_service.core.verdicts.step_list import StepList

VerdictForm = Literal["step_list", "tag", "first_error", "boxed_steps"]


@dataclass(frozen=True, slots=True)
class JudgeProfile:
    """How one kind of judge is spoken to.

    Attributes:
        name: in settings and in `GET /info`.
        template: the prompt.
        verdict: the form of its verdict.
        thinking_tokens: its thinking budget, where neither request nor settings name one.
        temperature: of its samples, where the request names none.
        top_p: of its samples, where the request names none.
        style: length of its analysis, where neither request nor settings name one.
        first_step: the number of the first step in prompt and verdict.
        models: patterns of the names of models that it is for.
        description: one line for people.
    """

    name: str
    template: PromptTemplate
    verdict: VerdictForm = "step_list"
    thinking_tokens: int = 0
    temperature: float = 0.7
    top_p: float = 0.9
    style: Style = "brief"
    first_step: int = 0
    models: tuple[str, ...] = ()
    description: str = ""

    @property
    def format(self) -> str:
        """The name of the verdict's form: the variable `format` of prompt templates."""
        return "json" if self.verdict == "step_list" else self.verdict

    @property
    def identity(self) -> str:
        """Everything in it that can change a critique, as text."""
        values = (
            self.name,
            self.verdict,
            self.thinking_tokens,
            self.temperature,
            self.top_p,
            self.style,
            self.first_step,
        )
        return f"{json.dumps(values)}\n{self.template.source}"

    def is_for(self, model: str) -> bool:
        """Whether one of its patterns matches the last part of a model's name, in any case."""
        name = model.rstrip("/").rpartition("/")[2].lower()
        return any(fnmatchcase(name, pattern.lower()) for pattern in self.models)

    @property
    def answer_phrase(self) -> str:
        """The phrase at which a constraint ends the analysis; empty if there is none."""
        return ANSWER if self.verdict == "first_error" else ""

    @property
    def takes_criteria(self) -> bool:
        """Whether its verdicts can answer criteria."""
        return self.verdict == "step_list"

    def shape(
        self,
        n_steps: int,
        style: Style,
        max_tokens: int,
        form: ConstraintForm,
        criteria: tuple[CriterionKind, ...] = (),
    ) -> VerdictShape | None:
        """The form of the verdict on a rollout.

        Args:
            n_steps: number of its steps.
            style: length of the analysis.
            max_tokens: limit of the critique, without a thought.
            form: how the engine constrains critiques.
            criteria: the kinds of the criteria, if the profile takes some.

        Returns:
            None if no verdict fits into `max_tokens`.
        """
        match self.verdict:
            case "tag":
                return FreeText(n_steps, max_tokens)
            case "first_error":
                return FirstError.fitting(n_steps, style, max_tokens, form, self.first_step)
            case "boxed_steps":
                return BoxedSteps.fitting(n_steps, style, max_tokens, form, self.first_step)
            case _:
                return StepList.fitting(n_steps, style, max_tokens, form, criteria)
