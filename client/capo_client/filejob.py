"""Credit a file of rollouts: resumable, and never a line lost.

The input is JSONL, a rollout of the wire on each line. Each output line is the result with two
more fields: `line`, the input line's number from 1, and `of`, a fingerprint of that line and of
the options, by which a later run knows what is done. Results are written as they come and put in
the order of the input at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capo_client import wire
from capo_client.client import CreditClient

_UNFINISHED = frozenset({429, 503, 504})


class FileJobError(Exception):
    """The files cannot be used as they are; the message says what to change."""


@dataclass
class FileJob:
    """Lines of `source` to be credited into `target`."""

    source: Path
    target: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    retry_errors: bool = False

    def __post_init__(self) -> None:
        self._lines = {
            number: line for number, line in enumerate(self._read_source(), start=1) if line.strip()
        }
        self._prints = {number: self._print(line) for number, line in self._lines.items()}
        self.results: dict[int, str] = {}
        self.errors: set[int] = set()
        self._resume()

    @property
    def total(self) -> int:
        """Input lines that hold something."""
        return len(self._lines)

    @property
    def missing(self) -> list[int]:
        """Input lines without a result, by number."""
        return [number for number in self._lines if number not in self.results]

    def _read_source(self) -> Iterator[str]:
        try:
            with self.source.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                yield from file
        except OSError as error:
            raise FileJobError(f"{self.source} cannot be read: {error.strerror}") from error

    def _print(self, line: str) -> str:
        text = json.dumps(self.options, sort_keys=True) + line.rstrip("\r\n")
        data = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def _resume(self) -> None:
        """Take over what an earlier run wrote; a last line that was cut off is dropped."""
        if not self.target.exists():
            return
        for text in self.target.read_text(encoding="utf-8").splitlines(keepends=True):
            if not text.endswith("\n"):
                continue
            try:
                record = json.loads(text)
                number, mark, status = record["line"], record["of"], record["status"]
            except (ValueError, TypeError, KeyError):
                raise FileJobError(
                    f"{self.target} holds a line that capo credit did not write; choose another "
                    "--out"
                ) from None
            if self._prints.get(number) != mark:
                raise FileJobError(
                    f"{self.target} holds results of another input or of other options (line "
                    f"{number}); choose another --out, or delete it to start anew"
                )
            if status == "error" and self.retry_errors:
                continue
            self._keep(number, text, status)
        self._rewrite()

    def _keep(self, number: int, text: str, status: str) -> None:
        self.results[number] = text
        if status == "error":
            self.errors.add(number)

    def run(
        self,
        client: CreditClient,
        deadline: float = 600.0,
        progress: Callable[[wire.Credited | wire.Failed], None] | None = None,
    ) -> None:
        """Credit what is missing. `deadline`: seconds for each window of rollouts.

        What the service could not do for now is left out of the output: run again to resume.

        Raises:
            UnavailableError, DeadlineExceededError: the service cannot serve; all results so far
                are in the output.
            ProblemResponseError: the service refuses the request itself.
        """
        window = client.batch_size * client.concurrency * 4
        missing = self.missing
        with self.target.open("a", encoding="utf-8") as out:

            def write(number: int, result: wire.Credited | wire.Failed) -> None:
                data = result.model_dump(mode="json", exclude_none=True)
                record = {"line": number, "of": self._prints[number], **data}
                text = json.dumps(record, ensure_ascii=False) + "\n"
                out.write(text)
                out.flush()
                self._keep(number, text, result.status)
                if progress:
                    progress(result)

            for start in range(0, len(missing), window):
                rollouts: dict[int, Mapping[str, Any]] = {}
                for number in missing[start : start + window]:
                    rollout = _parse(self._lines[number], number)
                    if isinstance(rollout, wire.Failed):
                        write(number, rollout)
                    else:
                        rollouts[number] = rollout
                numbers = list(rollouts)
                stream = client.credit_stream(
                    list(rollouts.values()), deadline=deadline, **self.options
                )
                for position, result in stream:
                    if not _is_unfinished(result):
                        write(numbers[position], result)
            os.fsync(out.fileno())
        self._rewrite()

    def _rewrite(self) -> None:
        """Put the output in the order of the input, in one step."""
        draft = self.target.with_name(self.target.name + ".part")
        with draft.open("w", encoding="utf-8") as out:
            out.writelines(self.results[number] for number in sorted(self.results))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.target)


def _parse(line: str, number: int) -> Mapping[str, Any] | wire.Failed:
    try:
        data = json.loads(line.encode("utf-8", "surrogateescape").decode())
    except (ValueError, RecursionError) as error:
        detail = f"line {number} is not JSON: {error}"
    else:
        if isinstance(data, dict):
            return data
        detail = f"line {number} is not a JSON object"
    problem = wire.Problem(
        type="urn:capo:problem:not-json", title="The line is not JSON", status=400, detail=detail
    )
    return wire.Failed(id=str(number), error=problem)


def _is_unfinished(result: wire.Credited | wire.Failed) -> bool:
    return isinstance(result, wire.Failed) and result.error.status in _UNFINISHED
