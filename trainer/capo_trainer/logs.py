"""A run's records: the console, metrics.jsonl, rollouts.jsonl, TensorBoard, W&B."""

from __future__ import annotations

import json
from numbers import Real
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from capo_trainer.curves import Curves
from capo_trainer.errors import MissingPackageError
from capo_trainer.recipe import Recipe
from capo_trainer.types import StepSamples


class Logs:
    """Writes on the main process only.

    Args:
        recipe: the run.
        enabled: whether this process writes.
        first: steps done before; records of later steps are dropped from the files, because a
            killed run may have gone on after its last checkpoint.

    Raises:
        MissingPackageError: TensorBoard or W&B is asked for and not installed.
    """

    def __init__(self, recipe: Recipe, enabled: bool = True, first: int = 0) -> None:
        self._enabled = enabled
        self._shown = recipe.logging.samples
        self._warned: set[str] = set()
        if not enabled:
            return
        recipe.output.mkdir(parents=True, exist_ok=True)
        self._credit, self._kept = recipe.credit, recipe.logging.rollouts
        self._file = _reopened(recipe.output / "metrics.jsonl", first)
        self._rollouts = _reopened(recipe.output / "rollouts.jsonl", first)
        (recipe.output / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n")
        self._board, self._wandb = _board(recipe, first), _wandb(recipe)
        self.console = Console(highlight=False, soft_wrap=True)
        self._curves = _curves_of(recipe.output / "metrics.jsonl")
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        shown = Group(self._curves, self._bar)
        self._live = Live(shown, console=self.console, refresh_per_second=2)
        # Not `is_terminal`: FORCE_COLOR, which CI sets, makes a terminal of a pipe.
        self._is_live = self.console.is_interactive and self.console.file.isatty()
        if self._is_live:
            self._live.start()
        self._task = self._bar.add_task("", total=recipe.steps, completed=first)
        if first:
            self.console.print(f"resumed after step {first}")

    def step(self, step: int, record: dict[str, Any], samples: StepSamples) -> None:
        """One training step."""
        self._write("train", step, record)
        if not self._enabled:
            return
        self._bar.advance(self._task)
        wrong = record["wrong_step_rate"]
        line = f"step {step:>4}  right {record['accuracy']:.1%}"
        line += f"  wrong steps {wrong:.1%}" if wrong is not None else ""
        line += f"  {record['mean_tokens']:.0f} tokens"
        line += f"  {record['step_seconds']:.1f} s (waited {record['wait_seconds']:.1f})"
        self.console.print(line)
        for name in ("uncredited", "unverified", "truncated", "blank"):
            if number := record.get(name):
                self.console.print(f"          {number} of {record['rollouts']} rollouts {name}")
        for reason in record["failures"]:
            if reason not in self._warned:
                self._warned.add(reason)
                self.console.print(
                    f"          why uncredited: {reason}", style="yellow", markup=False
                )
        for rollout in samples.rollouts[: self._shown]:
            self.console.print(f"{rollout.request.prompt.question}\n{rollout.text}\n", markup=False)
        self._keep(step, samples)

    def _keep(self, step: int, samples: StepSamples) -> None:
        """Write the first rollouts with their credit, as the inspector reads them."""
        results = samples.credit.results if samples.credit else {}
        for position, rollout in enumerate(samples.rollouts[: self._kept]):
            result = results.get(position)
            record = {
                "step": step,
                "question": rollout.request.prompt.question,
                "response": rollout.text,
                "tokens": rollout.own_tokens,
                "method": self._credit.method,
                "w_whole": self._credit.w_whole,
                "w_process": self._credit.w_process,
                "credit": result and result.model_dump(exclude={"token_rewards", "response"}),
            }
            self._rollouts.write(json.dumps(record) + "\n")
        self._rollouts.flush()

    def evaluation(self, step: int, record: dict[str, Any]) -> None:
        """One evaluation."""
        self._write("evaluation", step, record)
        if not self._enabled:
            return
        shown = f"evaluation after {step} steps: pass@1 {record['greedy_accuracy']:.1%}"
        if "greedy_wrong_step_rate" in record:
            shown += f", wrong steps {record['greedy_wrong_step_rate']:.1%}"
            shown += f", right with a wrong step {record['greedy_lucky_rate']:.1%}"
        self.console.print(shown, style="bold")

    def _write(self, kind: str, step: int, record: dict[str, Any]) -> None:
        if not self._enabled:
            return
        record = {"kind": kind, "step": step, **record}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._curves.add(record)
        numbers = {
            f"{kind}/{name}": float(value)
            for name, value in record.items()
            if isinstance(value, Real) and name != "step"
        }
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Flush and end."""
        if self._enabled:
            if self._is_live:
                self._live.stop()  # which leaves the curves there
            elif self._curves:
                self.console.print(self._curves)
            self._file.close()
            self._rollouts.close()
            if self._board is not None:
                self._board.close()
            if self._wandb is not None:
                self._wandb.finish()


def _reopened(path: Path, first: int) -> TextIO:
    """A file of records, without those of steps that are done again."""
    lines = path.read_text().splitlines() if path.exists() and first else []
    kept = [line for line in lines if (record := _record(line)) and record["step"] <= first]
    path.write_text("".join(f"{line}\n" for line in kept))
    return path.open("a", encoding="utf-8")


def _curves_of(path: Path) -> Curves:
    """The curves so far, of a run that is resumed."""
    curves = Curves()
    for record in map(_record, path.read_text().splitlines()):
        if record is not None:
            curves.add(record)
    return curves


def _record(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None where a kill cut it short."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _board(recipe: Recipe, first: int) -> Any:
    if not recipe.logging.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError(
            f"logging.tensorboard needs capo-credit[trainer], or set it to false: {error}"
        ) from None
    return SummaryWriter(str(recipe.output / "tensorboard"), purge_step=first + 1)


def _wandb(recipe: Recipe) -> Any:
    if recipe.logging.wandb is None:
        return None
    try:
        import wandb
    except ImportError:
        raise MissingPackageError(
            "logging.wandb is set and wandb is not installed: pip install wandb"
        ) from None
    return wandb.init(project=recipe.logging.wandb, config=recipe.model_dump(mode="json"))
