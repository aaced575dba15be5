"""A judge profile: prompt, form of the verdict, thinking and sampling of one kind of judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from capo_service.core.prompt import PromptTemplate
from capo_service.core.verdicts.base import ConstraintForm, Style, VerdictShape
from capo_service.core.verdicts.free_text import FreeText
from capo_service.core.verdicts.step_list import StepList

VerdictForm = Literal["step_list", "tag"]


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
    """

    name: str
    template: PromptTemplate
    verdict: VerdictForm = "step_list"
    thinking_tokens: int = 0
    temperature: float = 0.7
    top_p: float = 0.9

    def shape(
        self, n_steps: int, style: Style, max_tokens: int, form: ConstraintForm
    ) -> VerdictShape | None:
        """The form of the verdict on a rollout.

        Args:
            n_steps: number of its steps.
            style: length of the analysis.
            max_tokens: limit of the critique, without a thought.
            form: how the engine constrains critiques.

        Returns:
            None if no verdict fits into `max_tokens`.
        """
        if self.verdict == "tag":
            return FreeText(n_steps, max_tokens)
        return StepList.fitting(n_steps, style, max_tokens, form)
