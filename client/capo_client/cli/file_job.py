"""Credit a file of rollouts: resumable, and never a line lost.

The input is JSONL, a rollout of the wire on each line. Each output line is the result with three
more fields: `line`, the input line's number from 1; `of`, a fingerprint of that line and of the
options, by which a later run knows what is done; and `judge`, who judged it. Results are written
as they come and put in the order of the input at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import capo_wire as wire
from capo_client import errors
from capo_client.client import CreditClient
from capo_wire.jsonlines import is_own_output, line_id, read_lines

_UNFINISHED = frozenset({429, 503, 504})
_BEGINNING = '{"line": '  # of each line that is written
_FORM = 2  # of output lines; those of form 1 did not say who judged


class FileJobError(Exception):
    """The files cannot be used as they are; the message says what to change."""


@dataclass
class FileJob:
    """Lines of `source` to be credited into `target`.

    The folder of `target` is made where it is missing.

    Raises:
        FileJobError: on construction, if one of the files cannot be read, `target` is not an
            ordinary file, or holds something else than earlier results of this very job.
    """

    source: Path
    target: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    retry_errors: bool = False

    def __post_init__(self) -> None:
        _check_target(self.target, self.source)
        self._lines = {
            number: line for number, line in enumerate(self._read_source(), start=1) if line.strip()
        }
        self._prints = {number: self._print(line) for number, line in self._lines.items()}
        self.results: dict[int, str] = {}
        self.errors: set[int] = set()
        self._judges: set[str] = set()
        # In the end the file is replaced: the file itself, where `target` is a link to it.
        self._file = Path(os.path.realpath(self.target))
        with _reporting(self.target):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
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
            yield from read_lines(self.source, errors="surrogateescape")
        except OSError as error:
            raise FileJobError(f"{self.source} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FileJobError(f"{self.source} is not {error.encoding}: {error}") from error

    def _print(self, line: str) -> str:
        text = json.dumps([_FORM, self.options], sort_keys=True) + line.rstrip("\r\n")
        data = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def _resume(self) -> None:
        """Take over what an earlier run wrote; a last line that was cut off is dropped."""
        for text in read_lines(self._file, errors="surrogateescape"):
            if not text.endswith("\n") and _BEGINNING.startswith(text[: len(_BEGINNING)]):
                continue
            try:
                record = json.loads(text)
                number, mark, status = record["line"], record["of"], record["status"]
            except (ValueError, TypeError, KeyError):
                raise FileJobError(
                    f"{self.target} holds a line that capo did not write; choose another --out"
                ) from None
            if self._prints.get(number) != mark:
                raise FileJobError(
                    f"{self.target} holds results of another input or of other options (line "
                    f"{number}); choose another --out, or delete it to start from the beginning"
                )
            if status == "error" and self.retry_errors:
                continue
            self._keep(number, text, status, record.get("judge"))
        self._rewrite()

    def _keep(self, number: int, text: str, status: str, judge: str | None) -> None:
        self.results[number] = text
        if status == "error":
            self.errors.add(number)
        if judge is not None:
            self._judges.add(judge)

    def run(
        self,
        client: CreditClient,
        deadline: float = 600.0,
        progress: Callable[[wire.Credited | wire.Failed], None] | None = None,
    ) -> None:
        """Credit what is missing. `deadline`: seconds for each window of rollouts.

        What the service could not do for now is left out of the output: run again to resume.

        Raises:
            FileJobError: the results so far are another judge's, or cannot be written.
            UnavailableError, DeadlineExceededError: the service cannot serve; all results so far
                are in the output.
            ProblemResponseError: the service refuses the request itself.
        """
        window = client.batch_size * client.concurrency * 4
        missing = self.missing
        if not missing:
            self._judge(client)
        with self._appending() as write:

            def done(
                number: int, result: wire.Credited | wire.Failed, judge: str | None = None
            ) -> None:
                record = {"line": number, "of": self._prints[number], "judge": judge}
                record |= result.model_dump(mode="json", exclude_none=True)
                text = _as_line(record)
                write(text)
                self._keep(number, text, result.status, judge)
                if progress:
                    progress(result)

            for start in range(0, len(missing), window):
                judge = self._judge(client)  # for each window: it may be another by then
                rollouts: list[Mapping[str, Any]] = []
                numbers: list[int] = []
                for number in missing[start : start + window]:
                    rollout = _parse(self._lines[number], number)
                    if isinstance(rollout, wire.Failed):
                        done(number, rollout)
                    else:
                        rollouts.append(rollout)
                        numbers.append(number)
                stream = client.credit_stream(rollouts, deadline=deadline, **self.options)
                for count, (position, result) in enumerate(stream):
                    if judge is None and count == 0:  # it could not be asked before
                        judge = self._judge(client)
                    if not _is_unfinished(result):
                        number, own = numbers[position], rollouts[position].get("id")
                        name = own if isinstance(own, str) else line_id(number)
                        done(number, result.model_copy(update={"id": name}), judge)
        with _reporting(self.target):
            self._rewrite()

    def _judge(self, client: CreditClient) -> str | None:
        """Who judges; None where the service does not tell, or cannot be reached.

        Raises:
            FileJobError: there are results of another.
        """
        try:
            judge = judge_name(client.info())
        except errors.CapoError:
            return None
        if others := self._judges - {judge}:
            raise FileJobError(
                f"{self.target} holds results of the judge {min(others)!r}, and the service now "
                f"has {judge!r}; choose another --out, or delete it to judge all of it again"
            )
        return judge

    @contextmanager
    def _appending(self) -> Iterator[Callable[[str], None]]:
        with _reporting(self.target):
            out = self._file.open("a", encoding="utf-8")

        def write(text: str) -> None:
            with _reporting(self.target):
                out.write(text)
                out.flush()

        try:
            yield write
        finally:
            with _reporting(self.target):
                out.close()

    def _rewrite(self) -> None:
        """Put the output in the order of the input, in one step."""
        draft = self._file.with_name(self._file.name + ".part")
        with draft.open("w", encoding="utf-8", errors="surrogateescape") as out:
            out.writelines(self.results[number] for number in sorted(self.results))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self._file)


def judge_name(info: wire.Info) -> str:
    """A judge with all of its service's settings that can change what it says."""
    form = f"{info.critique_style} {info.critique_format}"
    return f"{info.model} {info.engine} {form} {info.judge_digest or ''}".strip()


def _check_target(target: Path, source: Path) -> None:
    """Refuse what cannot be read back and replaced: pipes, devices, this process's own output."""
    with _reporting(target):
        if not target.exists():
            return
        if target.is_dir():
            raise FileJobError(f"--out {target} is a folder; name a file in it")
        if not target.is_file() or is_own_output(target):
            raise FileJobError(
                f"--out {target} is no file of its own: results are read back from it when the "
                "command runs again, and put in order at the end; name a file"
            )
        if source.exists() and target.samefile(source):
            raise FileJobError(f"--out {target} is the input itself; choose another")


@contextmanager
def _reporting(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileJobError(
            f"{target} cannot be written: {error.strerror or error}; choose another --out, or fix "
            "that and run the same command again"
        ) from error


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
    return wire.Failed(id=line_id(number), error=problem)


def _as_line(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    # A lone surrogate, which an id may hold, becomes JSON's own escape of it.
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


def _is_unfinished(result: wire.Credited | wire.Failed) -> bool:
    return isinstance(result, wire.Failed) and result.error.status in _UNFINISHED
