"""The recipe: everything that decides a training run, as TOML, checked before anything starts."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from capo_trainer.errors import RecipeError
from capo_trainer.sections import (
    Algorithm,
    Checkpoints,
    CreditSection,
    Data,
    Evaluation,
    Logging,
    Optimiser,
    Policy,
    Sampling,
    Section,
)
from capo_wire.validation import field_path, message_of


class Recipe(Section):
    """One training run."""

    output: Path = Field(description="Folder of logs, checkpoints and the trained policy.")
    steps: Annotated[int, Field(ge=0)] = Field(
        description="Batches of rollouts to learn from; 0 only evaluates."
    )
    seed: int = 0
    policy: Policy
    data: Data
    sampling: Sampling = Sampling()
    credit: CreditSection = CreditSection()
    algorithm: Algorithm = Algorithm()
    optimiser: Optimiser = Optimiser()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = self.rollouts_per_step
        if self.minibatch > count or count % self.minibatch:
            raise ValueError(
                f"algorithm.minibatch = {self.minibatch} does not divide the {count} rollouts of a "
                "step (data.prompts_per_step * sampling.rollouts_per_prompt)"
            )
        if self.credit.reward != "outcome" and self.credit.tokenizer is None:
            raise ValueError(
                "credit.tokenizer is missing: the name under which the service serves the "
                "policy's tokenizer (`capo info` lists them; setting tokenizers adds more)"
            )
        return self

    @property
    def rollouts_per_step(self) -> int:
        """Of all processes together."""
        return self.data.prompts_per_step * self.sampling.rollouts_per_prompt

    @property
    def minibatch(self) -> int:
        """Rollouts in one update."""
        return self.algorithm.minibatch or self.rollouts_per_step

    @property
    def updates(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps * self.algorithm.epochs * (self.rollouts_per_step // self.minibatch)


def load_recipe(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe. Relative paths are relative to its folder, except `output`.

    Args:
        path: a TOML file.
        overrides: dotted name -> value, as {"algorithm.epochs": 1}.

    Raises:
        RecipeError: the file is missing or not TOML, or a value is unknown or wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path} is not TOML: {error}") from error
    for section, name in (("data", "prompts"), ("evaluation", "prompts")):
        given = values.get(section, {}).get(name)
        if isinstance(given, str):
            values[section][name] = str(path.parent / Path(given).expanduser())
    for dotted, value in (overrides or {}).items():
        *sections, name = dotted.split(".")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return make_recipe(values, str(path))


def make_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check values, as `load_recipe` does."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_explain(item) for item in error.errors())
        raise RecipeError(f"{source}: {faults}") from None


def _explain(item: Any) -> str:
    name = field_path(item["loc"])
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(item["loc"][-1]), _names(), n=1)
        return f"unknown setting {name}" + (f" (did you mean {close[0]}?)" if close else "")
    message = message_of(item)
    return f"{name}: {message}" if name else message


def _names() -> list[str]:
    names = list(Recipe.model_fields)
    for field in Recipe.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += field.annotation.model_fields
    return names
