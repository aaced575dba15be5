"""Outcome r_v: is the final answer right? By math-verify, or by a function of the user."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from typing import Any, Protocol

from capo_client.answers import answer_part, as_maths
from capo_trainer.recipe import RecipeError

_PLAIN = re.compile(r"-?[\d,]*\.?\d+")


class Verifier(Protocol):
    """Decides outcomes."""

    def readable(self, answer: str) -> bool:
        """Whether an answer of the prompt file can be compared with."""

    def __call__(self, response: str, answer: str) -> float | None:
        """r_v in [0, 1]; None if it could not be decided."""


class MathVerify:
    """The last of `####`, `\\boxed{}` and `Answer:`, or what comes last, compared by math-verify.

    Time limits (seconds) rest on a signal, so this is for the main thread.
    """

    def __init__(self, seconds: int = 3) -> None:
        try:
            import math_verify
        except ImportError as error:
            raise RecipeError(f"verifier math_verify needs capo-credit[trainer]: {error}") from None
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._parse, self._verify = math_verify.parse, math_verify.verify
        self._seconds = seconds
        self._gold: dict[str, Any] = {}

    def readable(self, answer: str) -> bool:
        part = answer_part(answer).strip()
        return _PLAIN.fullmatch(part) is not None or bool(self._read(answer))

    def __call__(self, response: str, answer: str) -> float | None:
        if answer not in self._gold:
            self._gold[answer] = self._read(answer)
        if not response.strip():
            return 0.0
        try:
            found = self._read(response)
            return float(
                bool(found)
                and self._verify(self._gold[answer], found, timeout_seconds=self._seconds)
            )
        except Exception:  # math-verify lets out whatever its parsers raise
            return None

    def _read(self, text: str) -> Any:
        return self._parse(as_maths(answer_part(text)), parsing_timeout=self._seconds)


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
