"""What an OpenAI-compatible server applies, found out at the start by requests like real ones.

A server may ignore a constraint without saying so: vLLM with a reasoning parser waits for the end
of a thought, which prompts without one do not contain (vllm-project/vllm issue 57726). Each form of
constraint is tried on prompts as the service sends them, from the most to the least exact.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from capo_service.engine.base import (
    Completion,
    Constraint,
    ConstraintForm,
    CritiqueFailedError,
    CritiqueSampling,
    EncodedPrompt,
    EngineBusyError,
    EngineDeadError,
    JudgePrompt,
    TokenPrompt,
)
from capo_service.engine.openai_routes import ChatRoute, TokenRoute
from capo_service.engine.openai_upstream import RefusedError
from capo_service.engine.openai_witness import WITNESS_TOKENS, Witnessed

log = logging.getLogger(__name__)

_SAMPLES = 4  # a server behind a router may apply the constraint half of the time
_SECONDS = 120.0  # for one sample; a server compiles at its first request
_SHORT_BUDGET = 4  # tokens of a thought that the constraint or the service ends
_LONG_BUDGET = 512  # tokens of a thought that nothing ends
_TRIAL = (("You check answers.", True),), (("Is 2 + 2 = 4? Answer yes or no.", True),)
_EXACT: tuple[ConstraintForm, ...] = ("structural_tag", "grammar", "json_schema")
_NAMES: dict[ConstraintForm, str] = {
    "structural_tag": "by structural tags",
    "grammar": "by a grammar: the analysis is ASCII without backslashes, bounded in characters",
    "json_schema": "by a JSON schema: a verdict may take twice its bound in tokens",
    "none": "by nothing: critiques that cannot be read are invalid and do not vote",
}

Kind = Literal["bound", "ignored", "refused", "thought", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a trial.

    Attributes:
        kind: the constraint was applied; it was ignored; the server refused the request; the judge
            thought up to its limit; or the server did not respond.
        detail: what the server or the judge wrote.
        has_thought: whether the judge returned a thought.
    """

    kind: Kind
    detail: str = ""
    has_thought: bool = False


class Probe:
    """Finds out what a server applies, and sets the route accordingly.

    Args:
        route: how critiques are requested.
        encode: encodes a prompt for it.
        server: for the log.
        warm_up: a constraint of real critiques; None: critiques are free text.
    """

    def __init__(
        self,
        route: TokenRoute | ChatRoute,
        encode: Callable[[JudgePrompt], EncodedPrompt],
        server: str,
        warm_up: Constraint | None,
    ) -> None:
        self._route = route
        self._encode = encode
        self._server = server
        self._witness = Witnessed(warm_up)

    async def run(self, thinking_tokens: int) -> None:
        """Find the form of constraint, and how the judge thinks.

        Args:
            thinking_tokens: the thinking budget of requests that name none.

        Raises:
            ValueError: the server refuses every request.
        """
        if not await self._find_form(thinking_tokens):
            return
        if isinstance(self._route, TokenRoute):
            await self._find_thinking(self._route)
        elif thinking_tokens:
            self._log_chat_thinking(await self._try_long_thought(thinking_tokens))

    async def _find_form(self, thinking_tokens: int) -> bool:
        """Set the route's form; False if the server does not respond."""
        route, reasons = self._route, list[str]()
        forms = [form for form in _EXACT if self._witness.has(form)]
        if not route.is_vllm:
            forms = [form for form in forms if form == "json_schema"]
        refusals = 0
        for route.form in forms:
            finding = await self._try_form(thinking_tokens)
            if finding.kind == "unknown":
                route.form = "grammar" if route.is_vllm else "json_schema"
                log.warning(
                    "could not find out whether upstream %s applies constraints (%s); assumed: "
                    "critiques are constrained %s. Start the service again when it responds",
                    self._server,
                    finding.detail,
                    _NAMES[route.form],
                )
                return False
            if finding.kind in ("bound", "thought"):
                self._log_form(reasons, finding)
                return True
            refusals += finding.kind == "refused"
            reasons.append(f"{route.form} {finding.kind}: {finding.detail}")
        route.form = "none"
        if refusals == len(forms):
            await self._check_service()
        self._log_form(reasons or ["this form of verdict has no JSON schema"], None)
        return True

    async def _try_form(self, thinking_tokens: int) -> Finding:
        finding = await self._try(0)
        if finding.kind == "thought" and thinking_tokens:
            return await self._try_long_thought(thinking_tokens)
        if finding.kind != "ignored" or not isinstance(self._route, TokenRoute):
            return finding
        encoder = self._route.encoder
        encoder.skip_thoughts()
        if (await self._try(0)).kind == "bound":
            log.warning(
                "upstream %s applies constraints only after a thought, as vLLM does with "
                "--reasoning-parser: prompts without thinking end in an empty thought (%r)",
                self._server,
                encoder.markers.opening + encoder.markers.closing,
            )
            return Finding("bound")
        encoder.skip_thoughts(False)
        return finding

    async def _find_thinking(self, route: TokenRoute) -> None:
        """Whether thought and verdict are one request, and whether a thought gets a verdict."""
        route.splits = route.form != "structural_tag"
        finding = await self._try(_SHORT_BUDGET)
        if not route.splits and finding.kind != "bound":
            route.splits = True
            log.warning(
                "upstream %s does not bound a thought and its verdict in one request (%s): they "
                "take two, the second on the cached prompt",
                self._server,
                finding.detail,
            )
            finding = await self._try(_SHORT_BUDGET)
        if route.form != "none" and finding.kind != "bound":
            log.warning(
                "upstream %s does not apply the constraint after a thought (%s): critiques of a "
                "judge that thinks may be unreadable, and those do not vote. Serve the judge "
                "without --reasoning-parser",
                self._server,
                finding.detail,
            )

    async def _check_service(self) -> None:
        """Refuse a server that takes no request at all."""
        finding = await self._try(0)
        if finding.kind == "refused":
            raise ValueError(
                f"upstream {self._server} refuses the judge's requests: {finding.detail}"
            )

    async def _try_long_thought(self, thinking_tokens: int) -> Finding:
        return await self._try(min(thinking_tokens, _LONG_BUDGET), samples=1)

    async def _try(self, budget: int, samples: int = _SAMPLES) -> Finding:
        """The worst of some samples. The first goes alone: from it refusals are learned."""
        prompt = self._encode(JudgePrompt(*_TRIAL, thinking=budget > 0))
        first = await self._sample(prompt, budget, 0)
        if first.kind != "bound":
            return first
        others = (self._sample(prompt, budget, seed) for seed in range(1, samples))
        found = await asyncio.gather(*others)
        return next((finding for finding in found if finding.kind != "bound"), first)

    async def _sample(self, prompt: EncodedPrompt, budget: int, seed: int) -> Finding:
        constraint = None if self._route.form == "none" else self._witness
        sampling = CritiqueSampling(0.7, 0.9, WITNESS_TOKENS, seed, constraint, budget)
        try:
            async with asyncio.timeout(_SECONDS):
                sampled = await self._complete(prompt, sampling)
        except RefusedError as error:
            return Finding("refused", str(error))
        except (EngineBusyError, EngineDeadError, TimeoutError) as error:
            return Finding("unknown", str(error) or f"no response in {_SECONDS:.0f} s")
        except CritiqueFailedError as error:
            cut_off = error.completion is not None and error.completion.thinking_truncated
            return Finding("thought" if cut_off else "refused", str(error))
        return self._judge(sampled, budget)

    async def _complete(self, prompt: EncodedPrompt, sampling: CritiqueSampling) -> Completion:
        if isinstance(prompt, TokenPrompt):
            assert isinstance(self._route, TokenRoute)  # noqa: S101
            return await self._route.complete(prompt, sampling, lambda _: None)
        assert isinstance(self._route, ChatRoute)  # noqa: S101
        return await self._route.complete(prompt, sampling)

    def _judge(self, sampled: Completion, budget: int) -> Finding:
        is_bound = self._witness.shows(sampled.text, self._route.form)
        if isinstance(self._route, TokenRoute) and sampled.thinking_tokens > budget:
            is_bound = False
        return Finding(
            "bound" if is_bound else "ignored",
            f"the judge wrote {(sampled.text or sampled.thinking)[:40]!r} where the constraint "
            "allows only other text",
            bool(sampled.thinking or sampled.thinking_tokens),
        )

    def _log_form(self, reasons: list[str], finding: Finding | None) -> None:
        form = self._route.form
        message = f"upstream {self._server}: critiques are constrained {_NAMES[form]}"
        if reasons:
            log.warning("%s. More exact forms: %s", message, "; ".join(reasons))
        else:
            log.info("%s", message)
        if finding is not None and finding.kind == "thought":
            log.warning(
                "upstream %s: not checked, because the judge gave no verdict: %s",
                self._server,
                finding.detail,
            )

    def _log_chat_thinking(self, finding: Finding) -> None:
        if finding.kind == "bound" and finding.has_thought:
            return
        if finding.kind == "bound":
            problem = (
                "returned no thought, so thinking_tokens has no effect: serve the judge with its "
                "reasoning parser, or use prompt_form=tokens before vLLM"
            )
        elif finding.kind == "thought":
            problem = f"thought to its limit, so its verdict was not checked: {finding.detail}"
        else:
            problem = f"gave no constrained verdict after a thought: {finding.detail}"
        log.warning("upstream %s: in a trial with thinking the judge %s", self._server, problem)
