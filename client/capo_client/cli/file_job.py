"""Credit a file of rollouts; an interrupted job resumes, and no line is lost.

The input is JSON lines, a rollout of the wire on each. Each output line is a result with three more
fields: `line`, the number of the input line from 1; `of`, a fingerprint of that line and the
options, by which a later run recognises what is done; and `judge`, the name of the judge. Results
are appended as they arrive, and sorted into the order of the input at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import capo_wire as wire
from capo_client import errors
from capo_client.client import CreditClient
from capo_wire.jsonlines import is_own_output, line_id, read_lines

_UNFINISHED = frozenset({429, 503, 504})
_LINE_START = '{"line": '  # every output line begins so
_FORM = 2  # version of the output lines; those of version 1 did not name the judge


class FileJobError(Exception):
    """The files cannot be used; the message says what to change."""


@dataclass
class FileJob:
    """Credits the lines of `source` into `target`.

    The folder of `target` is made if it is missing.

    Raises:
        FileJobError: on construction, if a file cannot be read, or `target` is not an ordinary
            file, or contains anything but earlier results of the same job.
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
        self._fingerprints = {
            number: self._fingerprint(line) for number, line in self._lines.items()
        }
        self.results: dict[int, str] = {}
        self.errors: set[int] = set()
        self._judges: set[str] = set()
        # The file is replaced at the end; if `target` is a link, the file that it points to.
        self._file = Path(os.path.realpath(self.target))
        with _reporting(self.target):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
            self._resume()

    @property
    def total(self) -> int:
        """The number of input lines that are not blank."""
        return len(self._lines)

    @property
    def missing(self) -> list[int]:
        """The numbers of the input lines without a result."""
        return [number for number in self._lines if number not in self.results]

    def _read_source(self) -> Iterator[str]:
        try:
            yield from read_lines(self.source, errors="surrogateescape")
        except OSError as error:
            raise FileJobError(f"{self.source} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FileJobError(f"{self.source} is not {error.encoding}: {error}") from error

    def _fingerprint(self, line: str) -> str:
        text = json.dumps([_FORM, self.options], sort_keys=True) + line.rstrip("\r\n")
        data = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def _resume(self) -> None:
        """Read what an earlier run wrote; an incomplete last line is dropped."""
        for text in read_lines(self._file, errors="surrogateescape"):
            if not text.endswith("\n") and _LINE_START.startswith(text[: len(_LINE_START)]):
                continue
            try:
                record = json.loads(text)
                number, fingerprint, status = record["line"], record["of"], record["status"]
            except (ValueError, TypeError, KeyError):
                raise FileJobError(
                    f"{self.target} contains a line that capo did not write; choose another --out"
                ) from None
            if self._fingerprints.get(number) != fingerprint:
                raise FileJobError(
                    f"{self.target} contains results of another input or of other options (line "
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
        """Credit the missing lines.

        Lines that failed for a temporary reason are left out of the output: run again to resume.

        Args:
            client: connected to the service.
            deadline: seconds for each window of batch_size * concurrency * 4 rollouts.
            progress: called with each result.

        Raises:
            FileJobError: earlier results are of another judge, or results cannot be written.
            UnavailableError, DeadlineExceededError: the service is unavailable; all results so far
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
                record = {"line": number, "of": self._fingerprints[number], "judge": judge}
                record |= result.model_dump(mode="json", exclude_none=True)
                text = _as_line(record)
                write(text)
                self._keep(number, text, result.status, judge)
                if progress:
                    progress(result)

            for start in range(0, len(missing), window):
                judge = self._judge(client)  # for each window, as it may have changed
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
                    if judge is None and count == 0:  # it was unreachable before
                        judge = self._judge(client)
                    if not _is_unfinished(result):
                        number, own = numbers[position], rollouts[position].get("id")
                        name = own if isinstance(own, str) else line_id(number)
                        done(number, result.model_copy(update={"id": name}), judge)
        with _reporting(self.target):
            self._rewrite()

    def _judge(self, client: CreditClient) -> str | None:
        """The name of the judge; None if the service cannot be reached.

        Raises:
            FileJobError: there are results of another judge.
        """
        try:
            judge = judge_name(client.info())
        except errors.CapoError:
            return None
        if others := self._judges - {judge}:
            raise _of_another_judge(self.target, min(others), judge)
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
        """Sort the output into the order of the input, atomically."""
        draft = self._file.with_name(self._file.name + ".part")
        with draft.open("w", encoding="utf-8", errors="surrogateescape") as out:
            out.writelines(self.results[number] for number in sorted(self.results))
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self._file)


def judge_name(info: wire.Info) -> str:
    """The judge with all settings of its service that can change a verdict."""
    form = (info.critique_style, info.critique_format, info.profile, info.judge_digest)
    return " ".join(part for part in (info.model, info.engine, *form) if part)


def check_judge(info: wire.Info, targets: Iterable[Path]) -> None:
    """Check that a service's judge is the one of earlier results.

    Raises:
        FileJobError: a file has results of another judge.
    """
    judge = judge_name(info)
    for target in targets:
        with _reporting(target), target.open(encoding="utf-8", errors="surrogateescape") as lines:
            first = lines.readline()
        try:
            other = json.loads(first)["judge"]
        except (ValueError, TypeError, KeyError):
            continue  # `FileJob` says what is wrong with it, if it is used
        if other not in (None, judge):
            raise _of_another_judge(target, other, judge)


def _of_another_judge(target: Path, other: str, judge: str) -> FileJobError:
    return FileJobError(
        f"{target} contains results of the judge {other!r}, and the service now has {judge!r}; "
        "choose another --out, or delete it to judge all of it again"
    )


def _check_target(target: Path, source: Path) -> None:
    """Refuse files that cannot be read back and replaced: pipes, devices, standard output."""
    with _reporting(target):
        if not target.exists():
            return
        if target.is_dir():
            raise FileJobError(f"--out {target} is a folder; name a file in it")
        if not target.is_file() or is_own_output(target):
            raise FileJobError(
                f"--out {target} is not a regular file: results are read back from it when the "
                "command runs again, and sorted at the end; name a file"
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
    # A lone surrogate, as an id may contain, becomes its JSON escape.
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


def _is_unfinished(result: wire.Credited | wire.Failed) -> bool:
    return isinstance(result, wire.Failed) and result.error.status in _UNFINISHED
