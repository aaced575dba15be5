"""The judge's prompt for a rollout, to look at: its text without the secret nonce."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import capo_wire as wire
from capo_service.core.vocabulary import TokenTable
from capo_service.engine.base import ChatPrompt, JudgePrompt
from capo_service.judges.profile import JudgeProfile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer


class PromptViewer:
    """Shows the judge's prompt for a rollout.

    The step tags of the shown text have a nonce that is drawn for this one view. The judge's own is
    not shown in any form: a policy that knew it could forge step tags in a rollout of the same
    question. The number of tokens is that of the judge's own prompt.

    Args:
        preparer: makes the judge's own prompt.
        profile: the judge's profile.
        tables: the vocabularies that rollouts may name.
        policy: the operator's settings.
        prefill: whether the prompt contains the fixed start of each critique.
    """

    def __init__(
        self,
        preparer: Preparer,
        profile: JudgeProfile,
        tables: Mapping[str, TokenTable],
        policy: CritiquePolicy,
        prefill: bool,
    ) -> None:
        self._preparer = preparer
        self._profile = profile
        self._tables = tables
        self._policy = policy
        self._prefill = prefill

    def view(self, rollout: wire.Rollout, options: wire.CreditOptions) -> wire.Prompt:
        """The prompt for a rollout. CPU work only; safe in any thread.

        Raises:
            InputError: the rollout cannot be judged as sent.
        """
        prepared = self._preparer.prepare(rollout, options)
        task = prepared.task
        if task is None:
            return wire.Prompt(
                messages=[],
                opening="",
                prompt_tokens=None,
                steps=prepared.spans,
                sampling=None,
                seeds=None,
            )
        sampling = task.sampling
        each = [sampling.of_critique(i).seed for i in range(options.voting.critiques)]
        seeds = [seed for seed in each if seed is not None]
        return wire.Prompt(
            messages=self._messages(rollout, options),
            opening=task.prompt.opening,
            prompt_tokens=task.prompt.tokens,
            steps=prepared.spans,
            sampling=wire.PromptSampling(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
            ),
            seeds=seeds or None,
        )

    def _messages(
        self, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> list[wire.PromptMessage]:
        shown: list[wire.PromptMessage] = []

        def record(prompt: JudgePrompt) -> ChatPrompt:
            for role, segments in (("system", prompt.system), ("user", prompt.user)):
                content = "".join(text for text, _ in segments)
                shown.append(wire.PromptMessage(role=role, content=content))
            return ChatPrompt([])

        passing = secrets.token_bytes(32)  # never that of the judge's prompts
        prompter = JudgePrompter(
            record, None, self._profile, "structural_tag", passing, self._prefill
        )
        Preparer(prompter, self._tables, self._policy).prepare(rollout, options)
        return shown
