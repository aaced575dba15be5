"""Outcome r_v: is the final answer right? By math-verify, or by a function of the user.

math-verify runs in a process of its own. It is plain Python, which holds the interpreter's lock: in
a thread of the trainer it slows decoding down five times (the testbed's policy samples 24 x 60
tokens in 0.37 s alone, and in 1.9 s while another thread verifies).
"""

from __future__ import annotations

import importlib
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Protocol

from capo_trainer.errors import MissingPackageError, RecipeError
from capo_wire.answers import reference_answer
from capo_wire.answers.compare import verify

_END_SECONDS = 10.0


class OutcomeVerifier(Protocol):
    """Decides outcomes."""

    def readable(self, answer: str) -> bool:
        """Whether an answer of the prompt file can be used as a reference."""

    def __call__(self, response: str, answer: str) -> float | None:
        """r_v in [0, 1]; None if it could not be decided."""

    def close(self) -> None:
        """Release what the verifier holds."""


class MathVerify:
    """Verification by the service's rules: docs/outcome.md.

    Args:
        seconds: limit of each step of a comparison. It rests on a signal, so this is for the main
            thread of a process.

    Raises:
        MissingPackageError: math-verify is not installed.
    """

    def __init__(self, seconds: int = 3) -> None:
        try:
            from math_verify.errors import TimeoutException
        except ImportError as error:
            raise MissingPackageError(
                f"verifier math_verify needs capo-credit[trainer]: {error}"
            ) from None
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._timeout: type[BaseException] = TimeoutException
        self._seconds = seconds

    def readable(self, answer: str) -> bool:
        return reference_answer(answer) is not None

    def __call__(self, response: str, answer: str) -> float | None:
        try:
            comparison = verify(response, answer, self._seconds)
        except (self._timeout, MemoryError, RecursionError):
            return None
        return None if comparison.reason == "comparison_failed" else float(comparison.right)

    def close(self) -> None:
        """Nothing to release."""


class VerifierProcess(MathVerify):
    """`MathVerify` in another process, started at the first call. For one thread.

    The process reads requests, one JSON array [response, answer] a line, and writes outcomes; it
    ends with the trainer. An answer under which it dies is undecided (None), and the next one gets
    a new process. (multiprocessing would demand a guarded `__main__` of scripts that call `train`.)
    """

    def __init__(self, seconds: int = 3) -> None:
        super().__init__(seconds)
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, response: str, answer: str) -> float | None:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101  # pipes
        try:
            process.stdin.write(json.dumps([response, answer]) + "\n")
            process.stdin.flush()
            outcome: float | None = json.loads(process.stdout.readline())
        except (OSError, json.JSONDecodeError):  # a broken pipe; an empty or unfinished line
            self.close()
            return None
        except BaseException:  # Ctrl-C: a late answer must not be read as the next one's
            self.close()
            raise
        return outcome

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, "-m", __name__, str(self._seconds)]
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._process

    def close(self) -> None:
        """End the process; a later call starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate(timeout=_END_SECONDS)


class FunctionVerifier:
    """Verification by a function of (response, answer), in the trainer's own process."""

    def __init__(self, decide: Callable[[str, str], float | None]) -> None:
        self._decide = decide

    def readable(self, answer: str) -> bool:
        return self._decide(answer, answer) is not None

    def __call__(self, response: str, answer: str) -> float | None:
        return self._decide(response, answer)

    def close(self) -> None:
        """Nothing to release."""


def make_verifier(name: str) -> OutcomeVerifier:
    """`math_verify`, which runs in a process of its own, or `module:function`.

    Raises:
        RecipeError: there is no such function.
        MissingPackageError: math-verify is not installed.
    """
    return VerifierProcess() if name == "math_verify" else FunctionVerifier(named_function(name))


def named_function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        RecipeError: there is no such function.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise RecipeError(f"{name!r} does not name a function: write module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise RecipeError(f"{name!r} is not a function")
    return found  # type: ignore[no-any-return]  # what it returns is its user's promise


def main() -> None:
    """The process: outcomes of the requests on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then closes
    answers, sys.stdout = sys.stdout, sys.stderr  # so that a stray print is no answer
    verify = MathVerify(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(verify(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
