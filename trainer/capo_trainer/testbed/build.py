"""Makes the testbed: a tokenizer, a policy that is right about half the time, and judges of it.

Everything is trained from scratch on this machine. The policy learns from careless demonstrations.
The judge goes on from there and learns from critiques of what that policy writes, in exactly the
prompts that the service sends.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_trainer.testbed import models, tasks
from capo_trainer.testbed.models import Example
from capo_trainer.testbed.tasks import Task

_LIST = re.compile(r"\[([\d, ]*)\]")
_QUALITY = "quality.json"
_TEMPLATE = Path(__file__).with_name("judge.j2")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One training of the judge. `stress`: how much checking counts beside writing the verdict.
    `fresh`: on rollouts that the rounds before have not seen."""

    updates: int
    batch: int = 20
    learning_rate: float = 4e-3
    stress: float = 1.0
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is trained. `quick` is for continuous integration."""

    layers: int = 6
    judge_layers: int = 8
    hidden: int = 128
    vocabulary: int = 1024
    policy_updates: int = 800
    policy_batch: int = 32
    checking_updates: int = 1600
    judge_rounds: tuple[Round, ...] = (
        Round(1400),
        Round(1000, learning_rate=2e-3),
        Round(900, batch=32, learning_rate=3e-3, stress=4.0, fresh=True),
    )
    judge_batch: int = 20
    judge_rollouts: int = 16_000
    held_out: int = 400

    def of_policy(self) -> list[int]:
        """What the policy depends on."""
        return [
            self.layers, self.hidden, self.vocabulary, self.policy_updates, self.policy_batch,
            self.held_out,
        ]  # fmt: skip

    def of_checking(self) -> list[Any]:
        """What the judge's first training depends on."""
        return [
            self.of_policy(), self.judge_layers, self.checking_updates, self.judge_batch,
            self.judge_rollouts,
        ]  # fmt: skip


QUICK = Sizes(
    policy_updates=500,
    checking_updates=1200,
    judge_rounds=(Round(500), Round(300, 32, 3e-3, 4.0, True)),
)
# The weaker judges are the good one, stopped when it was this good.
GRADES = {"judge-f60": 0.60, "judge-f80": 0.80}


def build(folder: Path, sizes: Sizes, seed: int, report: Report) -> dict[str, Any]:
    """Make everything under `folder`: policy, judge, judge-f80, judge-f60, prompts, testbed.json.

    A policy that is there already, of the same sizes and seed, is kept.

    Returns:
        What testbed.json holds: sizes, and how good each model is on held-out tasks.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    held_out = [tasks.make_task(_random(f"held out {i}")) for i in range(sizes.held_out)]
    write_prompts(folder / "eval.jsonl", held_out)
    seen = {task.question for task in held_out}
    rng = _random(f"{seed} prompts")
    write_prompts(folder / "train.jsonl", [t for t in _tasks(rng, 4000) if t.question not in seen])

    told = folder / "policy" / _QUALITY
    mark = {"seed": seed, "sizes": sizes.of_policy()}
    if not told.exists() or json.loads(told.read_text())["made"] != mark:
        model, tokenizer = _policy(held_out, sizes, seed, report)
        quality = {
            "greedy": _quality(model, tokenizer, held_out),
            "sampled": _quality(model, tokenizer, held_out, temperature=1.0),
        }
        models.save(model, tokenizer, folder / "policy")
        seconds = round(time.monotonic() - started)
        told.write_text(json.dumps({"made": mark, "seconds": seconds, **quality}))
    policy = json.loads(told.read_text())
    report(f"policy: {policy}")
    f1 = _judges(folder, held_out, sizes, seed, report)
    found = {
        "sizes": _plain(sizes), "seed": seed, "policy": policy, "judges": f1,
        "seconds": round(time.monotonic() - started),
    }  # fmt: skip
    (folder / "testbed.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def _policy(
    held_out: Sequence[Task], sizes: Sizes, seed: int, report: Report
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The policy, from careless demonstrations of tasks that are not held out."""
    torch.manual_seed(seed)
    rng, seen = _random(f"{seed} policy"), {task.question for task in held_out}
    tokenizer = models.wrap(_tokenizer(rng, sizes))

    def demonstrations() -> Iterator[Example]:
        while True:
            task = tasks.make_task(rng)
            if task.question not in seen:
                text = tasks.demonstrate(task, rng, tasks.DEMONSTRATIONS)
                yield _solution(tokenizer, task, text)

    model = models.new_model(tokenizer, sizes.layers, sizes.hidden)
    report(f"policy: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    models.train(
        model, demonstrations, updates=sizes.policy_updates, batch=sizes.policy_batch,
        learning_rate=5e-3, pad=tokenizer.pad_token_id, after=_every(100, "policy", report),
    )  # fmt: skip
    return model, tokenizer


def _random(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311  # data, not a secret


def write_prompts(path: Path, questions: Sequence[Task]) -> None:
    """A prompt file: JSON lines with `question` and `answer`."""
    with path.open("w", encoding="utf-8") as file:
        for task in questions:
            line = {"question": task.question, "answer": f"\\boxed{{{task.answer}}}"}
            file.write(json.dumps(line) + "\n")


def _plain(sizes: Sizes) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(asdict(sizes)))


def is_made(folder: Path, sizes: Sizes, seed: int) -> bool:
    """Whether the testbed is there, at least as good as asked for."""
    try:
        found = json.loads((folder / "testbed.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return bool(found["seed"] == seed and found["sizes"] in (_plain(sizes), _plain(Sizes())))


def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Sequence[int]],
    *, temperature: float, max_new_tokens: int, batch: int = 256,
) -> list[str]:  # fmt: skip
    """One text for each prompt; greedy at temperature 0."""
    texts: list[str] = []
    how: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        how |= {"temperature": temperature, "top_k": 0}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        rows = [prompts[i] for i in order[start : start + batch]]
        inputs = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, **how)
        texts += tokenizer.batch_decode(
            out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True
        )
    placed = dict(zip(order, texts, strict=True))
    return [placed[i] for i in range(len(prompts))]


def _tokenizer(rng: random.Random, sizes: Sizes) -> Any:
    rollouts = [_Rollout(t, tasks.demonstrate(t, rng, tasks.ALL_KINDS)) for t in _tasks(rng, 1000)]
    prompts = _prompts(rollouts, None)
    texts = []
    for rollout, prompt in zip(rollouts, prompts, strict=True):
        asked = prompt["messages"][1]["content"].replace(rollout.task.question, "\n")
        for step in tasks.split(rollout.response):
            asked = asked.replace(step, "\n")
        texts += [asked, rollout.task.question, rollout.response, rollout.verdict()]
    instructions = prompts[0]["messages"][0]["content"]
    lines = sorted({line for line in instructions.split("\n") if line})
    return models.train_tokenizer(texts, lines, sizes.vocabulary)


@dataclass(frozen=True, slots=True)
class _Rollout:
    task: Task
    response: str

    def wrong(self) -> list[bool]:
        return tasks.check(self.task.question, tasks.split(self.response))

    def verdict(self) -> str:
        steps = ", ".join(str(i) for i, wrong in enumerate(self.wrong()) if wrong)
        return f'{{"incorrect_steps": [{steps}]}}'


def _tasks(rng: random.Random, count: int) -> list[Task]:
    return [tasks.make_task(rng) for _ in range(count)]


def _prompts(rollouts: Sequence[_Rollout], model: Path | None) -> list[dict[str, Any]]:
    """What the service would ask about rollouts, every other one with its reference."""
    with tempfile.TemporaryDirectory() as scratch:
        sent, got = Path(scratch) / "rollouts.jsonl", Path(scratch) / "prompts.jsonl"
        with sent.open("w", encoding="utf-8") as file:
            for i, rollout in enumerate(rollouts):
                line = {"question": rollout.task.question, "response": rollout.response}
                if i % 2:
                    line["reference"] = f"\\boxed{{{rollout.task.answer}}}"
                file.write(json.dumps(line) + "\n")
        command = [sys.executable, "-m", "capo_client", "prompt", str(sent), "--out", str(got)]
        command += ["--critique-style", "verdict"]
        if model is not None:
            command += ["--model", str(model), "--template", str(_TEMPLATE)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # our own
        with got.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def _solution(tokenizer: PreTrainedTokenizerFast, task: Task, text: str) -> Example:
    prompt = policy_prompt(tokenizer, task.question)
    body = tokenizer.encode(text, add_special_tokens=False)
    return Example([*prompt, *body, tokenizer.eos_token_id], len(prompt))


def policy_prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """The ids after which the policy answers."""
    turns = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


def _quality(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Task],
    temperature: float = 0.0,
) -> dict[str, float]:  # fmt: skip
    prompts = [policy_prompt(tokenizer, task.question) for task in questions]
    texts = sample(model, tokenizer, prompts, temperature=temperature, max_new_tokens=96)
    rollouts = [_Rollout(task, text) for task, text in zip(questions, texts, strict=True)]
    right = [tasks.answer_of(r.response) == r.task.answer for r in rollouts]
    wrong = [r.wrong() for r in rollouts]
    steps = sum(map(len, wrong))
    return {
        "accuracy": sum(right) / len(right),
        "wrong_steps": sum(map(sum, wrong)) / max(steps, 1),
        "lucky": sum(ok and any(w) for ok, w in zip(right, wrong, strict=True)) / len(right),
    }


def _judges(
    folder: Path, held_out: Sequence[Task], sizes: Sizes, seed: int, report: Report
) -> dict[str, float]:
    """Train the judge, and keep it at each grade on the way; the F1 of each.

    It has more layers than the policy: those below find out which steps are wrong, and only what
    is known in one layer can be listed by the next.
    """
    rng = _random(f"{seed} judge")
    policy = LlamaForCausalLM.from_pretrained(folder / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")

    def rollouts(questions: Sequence[Task]) -> list[_Rollout]:
        prompts = [policy_prompt(tokenizer, task.question) for task in questions]
        texts = sample(policy, tokenizer, prompts, temperature=1.0, max_new_tokens=96)
        pairs = zip(questions, texts, strict=True)
        return [_Rollout(task, text) for task, text in pairs if text.strip()]

    def material() -> list[_Rollout]:
        found = rollouts(_tasks(rng, sizes.judge_rollouts // 3))
        for task in _tasks(rng, sizes.judge_rollouts - len(found)):
            slips = tasks.ALL_KINDS if rng.random() < 0.85 else tasks.NO_SLIPS
            found.append(_Rollout(task, tasks.demonstrate(task, rng, slips)))
        rng.shuffle(found)
        return found

    torch.manual_seed(seed)
    written, tested, fresh = material(), rollouts(held_out), material()

    # Checking is learnt on bare texts, and judging as the service asks for it from there on.
    told = folder / "checking" / _QUALITY
    mark = {"seed": seed, "sizes": sizes.of_checking()}
    if not told.exists() or json.loads(told.read_text())["made"] != mark:
        torch.manual_seed(seed)
        model = models.deepened(policy, sizes.judge_layers - sizes.layers)
        models.train(
            model, _endless([_bare_critique(tokenizer, rollout) for rollout in written]),
            updates=sizes.checking_updates, batch=sizes.judge_batch, learning_rate=4e-3,
            probed=sizes.layers, pad=tokenizer.pad_token_id,
            after=_every(100, "checking", report),
        )  # fmt: skip
        models.save(model, tokenizer, folder / "checking")
        told.write_text(json.dumps({"made": mark}))
    model = LlamaForCausalLM.from_pretrained(folder / "checking")

    examples = _critiques(written, folder / "policy", tokenizer)
    questions = _critiques(tested, folder / "policy", tokenizer)
    scores: dict[str, float] = {}

    def keep(name: str, score: float) -> None:
        models.save(model, tokenizer, folder / name)
        shutil.copy(_TEMPLATE, folder / name)
        scores[name] = score

    def after(update: int, loss: float) -> None:
        if update % 50:
            return
        score = _f1(model, tokenizer, questions, tested)
        report(f"judge: update {update}, loss {loss:.3f}, step F1 {score:.3f}")
        for name, least in GRADES.items():
            if name not in scores and score >= least:
                keep(name, score)

    for number, each in enumerate(sizes.judge_rounds, 1):
        report(f"judge: round {number} of {len(sizes.judge_rounds)}")
        if each.fresh:
            examples = _critiques(fresh, folder / "policy", tokenizer)
        torch.manual_seed(seed)
        models.train(
            model, _endless(examples), updates=each.updates, batch=each.batch,
            learning_rate=each.learning_rate, probed=sizes.layers, stress=each.stress,
            pad=tokenizer.pad_token_id, after=after,
        )  # fmt: skip
    keep("judge", _f1(model, tokenizer, questions, tested))
    return scores


def _endless(examples: Sequence[Example]) -> Callable[[], Iterator[Example]]:
    def stream() -> Iterator[Example]:
        while True:
            yield from examples

    return stream


def _critiques(
    rollouts: Sequence[_Rollout], model: Path, tokenizer: PreTrainedTokenizerFast
) -> list[Example]:
    """The service's prompt for each rollout, then the right verdict."""
    closing = _tags(tokenizer, "</step_")
    examples = []
    for rollout, prompt in zip(rollouts, _prompts(rollouts, model), strict=True):
        ids = prompt["prompt_token_ids"]
        ends = [at for at, token in enumerate(ids) if token in closing]
        lessons, steps = [], _lessons(tokenizer, rollout)
        for end, step in zip(ends, steps, strict=True):
            lessons.append((end - len(step.ids), step, end))
        examples.append(_critique(tokenizer, rollout, ids, lessons))
    return examples


def _bare_critique(tokenizer: PreTrainedTokenizerFast, rollout: _Rollout) -> Example:
    """A question, tagged steps and the right verdict, with nothing around them."""
    openings, closings = _tags(tokenizer, "<step_"), _tags(tokenizer, "</step_")
    ids = tokenizer.encode(f"<|user|>{rollout.task.question}", add_special_tokens=False)
    lessons = []
    for index, step in enumerate(_lessons(tokenizer, rollout)):
        ids.append(_numbered(openings, index))
        lessons.append((len(ids), step, len(ids) + len(step.ids)))
        ids += [*step.ids, _numbered(closings, index)]
    ids += tokenizer.encode("<|assistant|>", add_special_tokens=False)
    return _critique(tokenizer, rollout, ids, lessons)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """One step's ids. `could`: at each, whether the step could still become right. `taught`: as
    long as it could, the id that comes next in a right one."""

    ids: list[int]
    could: list[bool]
    taught: list[int]


def _lessons(tokenizer: PreTrainedTokenizerFast, rollout: _Rollout) -> list[_Lesson]:
    lessons = []
    steps = tasks.split(rollout.response)
    right = tasks.right_steps(rollout.task.question, steps)
    for step, wanted in zip(steps, right, strict=True):
        coded = tokenizer(step, add_special_tokens=False, return_offsets_mapping=True)
        ids, could = coded["input_ids"], []
        for _, end in coded["offset_mapping"]:
            whole = end == len(step)
            could.append(any(step == r if whole else r.startswith(step[:end]) for r in wanted))
        # The last of what would be right is the next change, or the answer.
        text = step if step in wanted else wanted[-1] if wanted else ""
        due = tokenizer.encode(text, add_special_tokens=False)
        same = 0
        while same < min(len(due), len(ids)) and due[same] == ids[same]:
            same += 1
        lessons.append(_Lesson(ids, could, due[: same + 1]))
    return lessons


def _critique(
    tokenizer: PreTrainedTokenizerFast, rollout: _Rollout, prompt: list[int],
    lessons: Sequence[tuple[int, _Lesson, int]],
) -> Example:  # fmt: skip
    """A prompt and its verdict; lessons as (where the step starts, the step, its closing tag)."""
    marks, taught, links, before = [], [], [], 0
    for index, (start, step, end) in enumerate(lessons):
        wrong = rollout.wrong()[index]
        # To list wrong steps in order is to know, at each, which came before it.
        links.append((end, before))
        before = min(index + 1, 15) if wrong else before
        marks += [(start + i, not could) for i, could in enumerate(step.could)]
        marks.append((end, wrong))
        taught += [(start + i, token) for i, token in enumerate(step.taught)]
    verdict = tokenizer.encode(rollout.verdict(), add_special_tokens=False)
    ids = [*prompt, *verdict, tokenizer.eos_token_id]
    return Example(ids, len(prompt), marks, taught, links)


@cache
def _tags(tokenizer: PreTrainedTokenizerFast, start: str) -> dict[int, str]:
    """The tokens that begin a step tag: id -> text."""
    texts = {i: tokenizer.decode([i]) for i in tokenizer.get_vocab().values()}
    return {i: text for i, text in texts.items() if text.startswith(start)}


def _numbered(tags: dict[int, str], index: int) -> int:
    whole = [i for i, text in tags.items() if re.fullmatch(rf"</?step_{index} ", text)]
    return (whole or sorted(tags))[0]


def _f1(
    judge: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Example],
    rollouts: Sequence[_Rollout],
) -> float:  # fmt: skip
    """Step F1 of single greedy critiques: wrong steps are what is looked for."""
    judge.eval()
    prompts = [example.ids[: example.start] for example in questions]
    texts = sample(judge, tokenizer, prompts, temperature=0.0, max_new_tokens=24)
    hits = called = there = 0
    for text, rollout in zip(texts, rollouts, strict=True):
        listed = _LIST.search(text)
        named = {int(n) for n in re.findall(r"\d+", listed[1])} if listed else set()
        wrong = {i for i, w in enumerate(rollout.wrong()) if w}
        hits += len(named & wrong)
        called += len(named)
        there += len(wrong)
    return 2 * hits / max(called + there, 1)


def _every(count: int, name: str, report: Report) -> Callable[[int, float], None]:
    def after(update: int, loss: float) -> None:
        if update % count == 0:
            report(f"{name}: update {update}, loss {loss:.3f}")

    return after
