"""Outcome r_v: is the final answer right? By math-verify, or by a function of the user."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from capo_trainer.recipe import RecipeError
from capo_wire.answers import reference_answer
from capo_wire.answers.compare import verify


class Verifier(Protocol):
    """Decides outcomes."""

    def readable(self, answer: str) -> bool:
        """Whether an answer of the prompt file can be compared with."""

    def __call__(self, response: str, answer: str) -> float | None:
        """r_v in [0, 1]; None if it could not be decided."""


class MathVerify:
    """By the service's rules: docs/outcome.md.

    Time limits (seconds, of each step of a comparison) rest on a signal, so this is for the main
    thread.
    """

    def __init__(self, seconds: int = 3) -> None:
        try:
            from math_verify.errors import TimeoutException
        except ImportError as error:
            raise RecipeError(f"verifier math_verify needs capo-credit[trainer]: {error}") from None
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._timeout: type[BaseException] = TimeoutException
        self._seconds = seconds

    def readable(self, answer: str) -> bool:
        return reference_answer(answer) is not None

    def __call__(self, response: str, answer: str) -> float | None:
        try:
            verdict = verify(response, answer, self._seconds)
        except (self._timeout, MemoryError, RecursionError):
            return None
        return None if verdict.reason == "comparison_failed" else float(verdict.right)


class _Function:
    def __init__(self, decide: Callable[[str, str], float | None]) -> None:
        self._decide = decide

    def readable(self, answer: str) -> bool:
        return self._decide(answer, answer) is not None

    def __call__(self, response: str, answer: str) -> float | None:
        return self._decide(response, answer)


def make_verifier(name: str) -> Verifier:
    """`math_verify`, or `module:function`.

    Raises:
        RecipeError: there is no such function, or math-verify is not installed.
    """
    return MathVerify() if name == "math_verify" else _Function(named_function(name))


def named_function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        RecipeError: there is none.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise RecipeError(f"{name!r} names no function: write module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise RecipeError(f"{name!r} is not a function")
    return found  # type: ignore[no-any-return]  # what it returns is its user's promise
