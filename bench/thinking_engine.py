"""One judge on vLLM, constrained by GBNF and by structural tags. Run by bench/thinking.py."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

import capo_wire as wire
from capo_client.cli.evaluate import measures
from capo_client.cli.evaluate.examples import LabelledExample
from capo_client.cli.evaluate.formats import read
from capo_client.cli.evaluate.measures import JudgedExample
from capo_service.core.verdicts.base import ConstraintForm, Style
from capo_service.engine.base import TokenPrompt
from capo_service.engine.local_models import local_model, own_template
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import structural_tag
from capo_service.engine.thought_split import split_thought
from capo_service.engine.vllm import CPU_WORKER
from capo_service.judges.loading import load_profile
from capo_service.pipeline.judge_prompt import JudgePrompter, JudgeTask
from capo_service.settings.judge import STORY_JUDGES

BEFORE: ConstraintForm = "grammar"
AFTER: ConstraintForm = "structural_tag"
FORMS = {"before": BEFORE, "after": AFTER}
STYLES: tuple[Style, ...] = ("verdict", "brief", "full")
SEED = 1


class Row(TypedDict):
    """A judge's critiques of all solutions, one of each.

    `valid`: share with a verdict. `tokens`: mean, thoughts included. `truncated`: share of thoughts
    that reached their budget. `seconds`: for all of them, sampled together.
    """

    judge: str
    style: str
    form: str
    budget: int
    critiques: int
    valid: float
    tokens: float
    truncated: float
    f1: float | None
    step_f1: float | None
    seconds: float


class Judge:
    """A judge on a fresh engine."""

    def __init__(self, name: str) -> None:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        from vllm import LLM
        from vllm.platforms import current_platform

        path, known = local_model(name)
        if current_platform.is_cpu():
            known["worker_extension_cls"] = CPU_WORKER
        self.name = name
        self._llm = LLM(model=path, enable_prefix_caching=True, **known)
        self._encoder = PromptEncoder(path)
        self._profile = load_profile("default", own_template(name))

    def task(
        self, example: LabelledExample, style: Style, form: ConstraintForm, budget: int = 0
    ) -> JudgeTask:
        prefill = self.name not in STORY_JUDGES
        make = JudgePrompter(self._encoder.encode, None, self._profile, form, b"bench", prefill)
        voting = wire.Voting(seed=SEED)
        return make.task(example.question, example.steps, None, voting, style, budget)

    def sample(
        self, tasks: Sequence[JudgeTask], form: ConstraintForm, limit: int | None = None
    ) -> tuple[float, list[Sequence[int]]]:
        """The seconds for one critique of each task, and the sampled tokens of each.

        Args:
            tasks: what is asked.
            form: how critiques are constrained; with `none`, one token of each is sampled.
            limit: maximum tokens of each; None: what suffices.
        """
        from vllm.inputs import tokens_input

        prompts = [tokens_input(_prompt(task).ids) for task in tasks]
        params = [self._params(task, i, form, limit) for i, task in enumerate(tasks)]
        started = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started, [each.outputs[0].token_ids for each in outputs]

    def _params(
        self, task: JudgeTask, position: int, form: ConstraintForm, limit: int | None
    ) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        one, constraint = task.sampling.of_critique(position), None
        assert one.constraint is not None
        bound = one.thinking_tokens + _prompt(task).closing_tokens + one.max_tokens
        if form == BEFORE:
            constraint = StructuredOutputsParams(grammar=one.constraint.grammar())
        elif form == AFTER:
            end = self._encoder.thought_end if one.thinking_tokens else None
            tag = structural_tag(end, one.thinking_tokens, one.constraint)
            constraint = StructuredOutputsParams(structural_tag=tag)
        return SamplingParams(
            temperature=one.temperature,
            top_p=one.top_p,
            max_tokens=1 if form == "none" else limit or bound,
            seed=one.seed,
            structured_outputs=constraint,
            detokenize=False,
        )

    def first_critique(
        self, style: Style, form: ConstraintForm, examples: Sequence[LabelledExample]
    ) -> dict[str, float]:
        """Seconds of the first critique of a style and form on this engine, its prompt cached.

        `first_token`: until its first token, and so until the constraint is compiled. `critique`:
        the whole critique, compiled before. `first`: both together. `other_length`: the first token
        of the first critique with another number of steps.
        """
        other = next(each for each in examples if len(each.steps) != len(examples[0].steps))
        one, another = (self.task(example, style, form) for example in (examples[0], other))
        self.sample([one, another], "none")
        first_token, critique = (self.sample([one], form, limit)[0] for limit in (1, None))
        return {
            "first": first_token + critique,
            "first_token": first_token,
            "critique": critique,
            "other_length": self.sample([another], form, 1)[0],
        }

    def row(
        self, examples: Sequence[LabelledExample], style: Style, form: ConstraintForm, budget: int
    ) -> Row:
        """One critique of each solution."""
        tasks = [self.task(example, style, form, budget) for example in examples]
        self.sample(tasks, "none")
        seconds, sampled = self.sample(tasks, form)
        critiques, truncated = [], 0
        for task, ids in zip(tasks, sampled, strict=True):
            written = split_thought(ids, self._encoder, budget)
            truncated += 0 < budget <= written.thought_tokens
            critiques.append(task.shape.read(_prompt(task).opening + written.text).wrong)
        judged = [
            JudgedExample(example, (critique,), critique)
            for example, critique in zip(examples, critiques, strict=True)
        ]
        figures = measures.table(judged, 1, 1, SEED)[0]
        print(f"{style}, {form}, thinking {budget}: {seconds:.1f} s", flush=True)
        return Row(
            judge=self.name,
            style=style,
            form=form,
            budget=budget,
            critiques=len(critiques),
            valid=mean(critique is not None for critique in critiques),
            tokens=mean(len(ids) for ids in sampled),
            truncated=truncated / len(critiques),
            f1=figures["f1"],
            step_f1=figures["step_f1"],
            seconds=seconds,
        )


def _prompt(task: JudgeTask) -> TokenPrompt:
    assert isinstance(task.prompt, TokenPrompt)
    return task.prompt


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--judge", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--solutions", type=int, required=True)
    parser.add_argument("--budgets", type=int, nargs="*", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    examples = read(options.data)[1][: options.solutions]
    judge = Judge(options.judge)
    knows_verdicts_only = options.judge in STORY_JUDGES
    styles: Sequence[Style] = STYLES[:1] if knows_verdicts_only else STYLES
    budgets = [] if knows_verdicts_only else options.budgets
    first = {
        style: {name: judge.first_critique(style, form, examples) for name, form in FORMS.items()}
        for style in styles
    }
    print("first critiques:", first, flush=True)
    rows = [judge.row(examples, style, form, 0) for style in styles for form in FORMS.values()]
    rows += [judge.row(examples, "verdict", AFTER, budget) for budget in budgets]
    options.out.write_text(json.dumps({"first": first, "rows": rows}))


if __name__ == "__main__":
    main()
