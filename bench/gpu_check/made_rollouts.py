"""Rollouts of realistic lengths: the testbed's arithmetic stories, told as a language model would.

Each is a list of steps of which a checker knows the wrong ones, so that a judge's accuracy can be
reported too. No two are alike, or the prefix cache would answer for the engine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capo_testbed import tasks

# About 200, 550 and 2,200 tokens of language models; `plain` stories are for the testbed's judges.
PROBLEMS = {"plain": 1, "short": 1, "typical": 3, "long": 12}
SAID = (
    "Now we take the next change into account. We have {}, so this is what we go on with.",
    "The text says what happens next, and we apply it to what we have: {}.",
    "Let us do the next part carefully. It gives {}. That is the number for the next part.",
    "Next, we update the count. Since the count changes as stated, {} holds.",
)
LATEX = (
    "We apply the next change: \\[ {} \\] so the count is as above, i.e. $n_{{i+1}} = f(n_i)$.",
    "Using $\\Delta n$ from the text, $$ {} $$ and therefore $n \\in \\mathbb{{N}}$ as required.",
)


@dataclass(frozen=True, slots=True)
class Made:
    """A rollout, and which of its steps are wrong."""

    question: str
    steps: tuple[str, ...]
    wrong: tuple[bool, ...]

    @property
    def response(self) -> str:
        return "\n\n".join(self.steps)

    def sent(self) -> dict[str, Any]:
        """As the service takes it. Right and wrong outcomes alternate by the question's length."""
        outcome = float(len(self.response) % 2)
        return {"question": self.question, "response": self.response, "outcome": outcome}


def group(name: str, size: int, length: str = "typical", latex: bool = False) -> list[Made]:
    """`size` rollouts of one question; the same for the same name."""
    rng = random.Random(f"gpu-check {name}")  # str seeds are stable
    problems = [tasks.make_task(rng) for _ in range(PROBLEMS[length])]
    question = problems[0].question
    if len(problems) > 1:
        listed = [f"({i + 1}) {task.question}" for i, task in enumerate(problems)]
        question = "Solve each of these problems. " + " ".join(listed)
    told = ("{}",) if length == "plain" else LATEX if latex else SAID
    return [_rollout(question, problems, rng, number, told) for number in range(size)]


def _rollout(
    question: str,
    problems: Sequence[tasks.Task],
    rng: random.Random,
    number: int,
    told: Sequence[str],
) -> Made:
    steps: list[str] = []
    wrong: list[bool] = []
    for task in problems:
        lines = tasks.split(tasks.demonstrate(task, rng, tasks.ALL_KINDS))
        wrong += tasks.check(task.question, lines)
        steps += [rng.choice(told).format(line.strip()) for line in lines]
    steps[0] = f"Solution {number + 1}. {steps[0]}"
    return Made(question, tuple(steps), tuple(wrong))


def groups(name: str, count: int, size: int, length: str = "typical") -> list[Made]:
    """`count` rollouts in groups of `size`; every fourth group is in LaTeX."""
    made: list[Made] = []
    number = 0
    while len(made) < count:
        made += group(f"{name} {number}", size, length, latex=number % 4 == 3)
        number += 1
    return made[:count]


# Texts whose tokens are hard to align, each with several steps.
HARD = {
    "plain": "12 * 8 = 96.\n\nThen 96 - 75 = 31.\n\nThe answer is 31.",
    "LaTeX": "\\[\n  \\frac{12}{8} = 1.5\n\\]\n\n$$x^{2} \\le \\sqrt{2}$$\n\n\\boxed{1.5}",
    "Chinese and emoji": "\u7b2c\u4e00\u6b65\uff1a12 + 30 = 42 \U0001f642\n\n"
    "\u7b54\u6848 42 \U0001f469\u200d\U0001f469\u200d\U0001f467\n\n\u7b54\uff1a42\u3002",
    "combining characters": "e\u0301tape 1 : a\u0308 + 1\n\n  e\u0301tape 2\n\n\u200bfin",
    "white space": "\n\n  first\t= 1  \n\n\n\n\tsecond = 2\r\n\r\n   third\n\n",
    "code": "```python\ndef f(x):\n    return x + 1\n```\n\nf(1) == 2\n\n    indented",
    "control strings": "<|im_end|>\n\n</s><think>1 + 1 = 2</think>\n\n[INST] 3 [/INST]",
}
