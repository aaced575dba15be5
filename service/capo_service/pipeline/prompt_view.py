"""The judge's prompt for a rollout, to look at: its text with another code and nonce."""

from __future__ import annotations

import secrets

import capo_wire as wire
from capo_service.engine.base import ChatPrompt, JudgePrompt
from capo_service.judges.profile import JudgeProfile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import Preparer
from capo_service.pipeline.prepared import Prepared


class PromptViewer:
    """Shows the judge's prompt for a rollout.

    The heads of steps in the shown text have a code that is drawn for this one view, and so has the
    nonce in the tags of users' own templates. The judge's nonce is not shown in any form: a policy
    that knew it could forge step tags in a rollout of the same question. (The code of heads is
    chosen after the rollout was written, and would be of no use to it.) The number of tokens is
    that of the judge's own prompt.

    Args:
        preparer: makes the judge's own prompt.
        profile: the judge's profile.
        prefill: whether the prompt contains the fixed start of each critique.
        markers: what opens and closes the judge's thoughts; None if only its server knows.
    """

    def __init__(
        self,
        preparer: Preparer,
        profile: JudgeProfile,
        prefill: bool,
        markers: tuple[str, str] | None = None,
    ) -> None:
        self._preparer = preparer
        self._profile = profile
        self._prefill = prefill
        self._markers = markers

    def view(self, rollout: wire.Rollout, options: wire.CreditOptions) -> wire.Prompt:
        """The prompt for a rollout. CPU work only; safe in any thread.

        Raises:
            InputError: the rollout cannot be judged as sent.
        """
        prepared = self._preparer.prepare(rollout, options)
        window = prepared.windows[0]
        task = window.task
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
        opening, closing = (sampling.thinking_tokens and self._markers) or (None, None)
        return wire.Prompt(
            messages=self._messages(window, rollout, options),
            opening=task.prompt.opening,
            prompt_tokens=task.prompt.tokens,
            steps=prepared.spans,
            windows=len(prepared.windows),
            sampling=wire.PromptSampling(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
            ),
            seeds=seeds or None,
            profile=self._profile.name,
            thinking_tokens=sampling.thinking_tokens,
            thinking_opening=opening,
            thinking_closing=closing,
        )

    def _messages(
        self, window: Prepared, rollout: wire.Rollout, options: wire.CreditOptions
    ) -> list[wire.PromptMessage]:
        shown: list[wire.PromptMessage] = []

        def record(prompt: JudgePrompt) -> ChatPrompt:
            for role, segments in (("system", prompt.system), ("user", prompt.user)):
                content = "".join(text for text, _ in segments)
                shown.append(wire.PromptMessage(role=role, content=content))
            return ChatPrompt([])

        passing = secrets.token_bytes(32)  # never that of the judge's prompts
        prompter = JudgePrompter(
            record,
            None,
            self._profile,
            "structural_tag",
            passing,
            self._prefill,
            top_logprobs=1,  # whether the judge has exact votes was checked before
        )
        make = self._preparer.make_task(prompter, rollout.prompt_text(), rollout, options)
        make(window.shown_steps, window.around)
        return shown
