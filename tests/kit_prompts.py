"""Reads a judge's prompt as a judge does that knows the code: line by line, trusted or not."""

from __future__ import annotations

import re

import capo_wire as wire
from capo_service.engine.base import ChatPrompt, EncodedPrompt, JudgePrompt
from capo_service.judges.loading import load_profile
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prepared import Prepared

Part = tuple[str, bool]  # text, whether it is a step; else an observation


def code_of(prompt: JudgePrompt) -> str:
    """The code in the prompt's own lines."""
    trusted = "".join(text for text, ours in prompt.user if ours)
    codes = re.findall(r"^[\[<](?:Step |paragraph_)?\d+ ([a-z]+)[\]>]$", trusted, re.MULTILINE)
    [code] = set(codes)
    return str(code)


def read_prompt(prompt: JudgePrompt) -> tuple[str, list[Part]]:
    """The code of a prompt, and the steps and observations between the lines that have it.

    The whole text is read, so that lines of a rollout would count, were they like the prompt's own.
    """
    code = code_of(prompt)
    text = "".join(each for each, _ in prompt.user).rpartition(f"[/earlier {code}]\n")[2]
    lines = rf"^(\[(?:Step )?(?:\d+|end|observation) {code}\]|</?paragraph_\d+ {code}>)$"
    _, *rest = re.split(lines, text, flags=re.MULTILINE)
    marks, texts = rest[::2], [each.strip() for each in rest[1::2]]
    found: list[Part] = []
    number = None
    for mark, each in zip(marks, texts, strict=True):
        if mark.startswith(("</", "[end")):
            continue
        if is_step := not mark.startswith("[observation"):
            [shown] = re.findall(r"\d+", mark)
            assert number is None or int(shown) == number + 1, marks
            number = int(shown)
        found.append((each, is_step))
    has_end = sum(mark.startswith("[end") for mark in marks)
    assert has_end == (0 if marks[-1].startswith("</") or "<paragraph" in "".join(marks) else 1)
    assert not has_end or marks[-1].startswith("[end"), marks
    if not has_end:  # after the last observation there is no line that ends it
        last, is_step = found[-1]
        found[-1] = (last if is_step else _without_instruction(prompt, last), is_step)
    return code, found


def _without_instruction(prompt: JudgePrompt, last: str) -> str:
    trusted = prompt.user[-1][0].strip()
    assert prompt.user[-1][1] and last.endswith(trusted)
    return last.removesuffix(trusted).strip()


def judged_one_by_one(rollout: wire.Rollout) -> tuple[Prepared, list[JudgePrompt]]:
    """A rollout each of whose steps is a window, and the prompts of these."""
    seen: list[tuple[EncodedPrompt, JudgePrompt]] = []

    def encode(prompt: JudgePrompt) -> EncodedPrompt:
        length = sum(len(text) for text, _ in (*prompt.system, *prompt.user))
        seen.append((ChatPrompt([], tokens=length), prompt))
        return seen[-1][0]

    prompter = JudgePrompter(encode, 10**6, load_profile("agent"), "structural_tag", b"secret")
    preparer = Preparer(prompter, {}, CritiquePolicy(style="verdict", max_steps=1))
    prepared = preparer.prepare(rollout, wire.CreditOptions())
    tasks = [window.task for window in prepared.windows]
    prompts = [next(p for each, p in seen if task and each is task.prompt) for task in tasks]
    return prepared, prompts


def read_earlier(prompt: JudgePrompt) -> list[Part]:
    """The steps before a window in its prompt, each with whether an observation follows it."""
    code = code_of(prompt)
    text = "".join(each for each, _ in prompt.user)
    found = re.findall(rf"^\[earlier {code}\]\n(.*?)^\[/earlier {code}\]$", text, re.M | re.S)
    steps: list[Part] = []
    for line in "".join(found).splitlines():
        if line.startswith(f"[observation {code}] "):
            steps[-1] = (steps[-1][0], True)
        elif not re.fullmatch(r"\(\d+ steps? left out here\)", line):
            steps.append((line, False))
    return steps
