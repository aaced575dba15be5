"""A file of credited rollouts, as JSON lines, for the inspector."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import capo_wire as wire
from capo_client._options import CreditOptionArgs
from capo_client.adapters.queries import CreditQuery

_log = logging.getLogger("capo_client.adapters")
_TEXTS = (
    "question",
    "messages",
    "tools",
    "reference",
    "response_turns",
    "response_token_ids",
    "token_offsets",
    "response_mask",
)
_NEEDED: tuple[wire.Include, ...] = ("token_rewards", "critiques", "response")


class RolloutFile:
    """Appends what the service said about rollouts to a file.

    Each line has the rollout that was sent and `credit`, its result; null if it was not credited,
    with `error`. Several processes may append to the same file of a local disk. A file that cannot
    be written is reported once and does not stop the training.

    Args:
        path: the file; it is created, and its folder must exist.
        options: of the request; `run` and the voting method are written to each line.
    """

    def __init__(self, path: str, options: CreditOptionArgs) -> None:
        self._path = path
        self._method = wire.Voting.model_validate(options.get("voting") or {}).method
        self._run = options.get("run")
        self._failed = False

    def write(
        self, queries: Sequence[CreditQuery], results: Mapping[int, wire.Result | Exception]
    ) -> None:
        """Append the rollouts of one call; those without text are left out."""
        lines = [
            self._line(query.body, query.outcome, results.get(position))
            for position, query in enumerate(queries)
            if query.body is not None
        ]
        try:
            _append(self._path, lines)
        except OSError as error:
            if not self._failed:
                _log.warning("rollouts_file %s cannot be written: %s", self._path, error)
            self._failed = True

    def _line(
        self,
        body: Mapping[str, Any],
        outcome: float | None,
        result: wire.Result | Exception | None,
    ) -> str:
        credited = result if isinstance(result, wire.Credited) else None
        record: dict[str, Any] = {
            "at": round(time.time(), 3),
            "run": self._run,
            "method": self._method,
        }
        record |= {name: body[name] for name in _TEXTS if body.get(name) is not None}
        record["outcome"] = outcome
        record["response"] = (credited and credited.response) or body.get("response") or ""
        record["credit"] = credited and credited.model_dump(mode="json", exclude={"response"})
        if credited is None:
            failed = result.error.detail if isinstance(result, wire.Failed) else result
            record["error"] = str(failed)
        return json.dumps(record) + "\n"


def with_texts(options: CreditOptionArgs) -> CreditOptionArgs:
    """The options of a request whose results have all that is written."""
    return {**options, "include": sorted({*(options.get("include") or ()), *_NEEDED})}


def _append(path: str, lines: Iterable[str]) -> None:
    """One write for all lines, so that those of other processes do not come between."""
    data = memoryview("".join(lines).encode())
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)
