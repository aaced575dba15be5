"""Body -> envelope and rollouts. Only an invalid envelope fails the whole request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pydantic_core
from pydantic import ValidationError

import capo_wire as wire
from capo_service.api import problems
from capo_service.api.json_splitting import split
from capo_service.pipeline.types import RolloutBatch
from capo_wire.validation import first_error

_LONGEST_ID = 256
_SPLIT_ABOVE = 256 * 1024  # bytes; less is parsed in a millisecond
_SURROGATE = "contains a lone surrogate, which is not valid Unicode; replace it by U+FFFD"


def parse(body: bytes, max_rollouts: int) -> RolloutBatch:
    """Validate the options, then each rollout on its own. CPU work only; safe in any thread.

    Raises:
        ProblemError: the body is not JSON or the envelope is not valid.
    """
    pieces = split(body) if len(body) > _SPLIT_ABOVE else None
    data, odd = _load(pieces.envelope if pieces else body)
    if not isinstance(data, dict):
        raise problems.error("invalid-request", "the body must be a JSON object")
    rollouts = data.pop("rollouts", None)
    if pieces:
        rollouts = pieces.rollouts
    if not isinstance(rollouts, list) or not rollouts:
        raise problems.error(
            "invalid-request", "rollouts must be a list with at least one rollout", "rollouts"
        )
    if len(rollouts) > max_rollouts:
        raise problems.error(
            "too-large",
            f"the request has {len(rollouts)} rollouts; this service accepts {max_rollouts} "
            "(setting max_rollouts)",
            "rollouts",
        )
    if odd and not _is_text(data):
        raise problems.error("not-json", f"an option of the request {_SURROGATE}")
    try:
        options = wire.CreditOptions.model_validate(data)
    except ValidationError as error:
        field, detail = first_error(error)
        raise problems.error("invalid-request", detail, field) from None
    ids: list[str] = []
    items: list[wire.Rollout | wire.Failed] = []
    # One at a time: freeing all parsed rollouts at once holds the interpreter too, 38 ms for 35 MB.
    for position, rollout in enumerate(rollouts):
        value, is_odd = _load(rollout) if pieces else (rollout, odd)
        ids.append(_id(value, position))
        if is_odd and not _is_text(value):
            items.append(_refused(ids[-1], f"the rollout {_SURROGATE}"))
        else:
            items.append(_item(value, ids[-1]))
    return RolloutBatch(options, ids, items)


def _load(body: bytes) -> tuple[Any, bool]:
    """The parsed JSON, and whether its text may contain lone surrogates."""
    try:
        return pydantic_core.from_json(body), False
    except ValueError as error:
        # Python's parser accepts lone surrogates, so that only the rollout with one is refused, and
        # not the batch.
        if "escape" in str(error):
            try:
                return json.loads(body), True
            except (ValueError, RecursionError):
                pass
        raise problems.error("not-json", f"the body is not valid JSON: {error}") from None


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _id(rollout: Any, position: int) -> str:
    given = rollout.get("id") if isinstance(rollout, Mapping) else None
    if not isinstance(given, str) or len(given) > _LONGEST_ID or not _is_text(given):
        return str(position)
    return given


def _item(rollout: Any, name: str) -> wire.Rollout | wire.Failed:
    try:
        return wire.Rollout.model_validate(rollout)
    except ValidationError as error:
        field, detail = first_error(error)
        return _refused(name, detail, field)


def _refused(name: str, detail: str, field: str | None = None) -> wire.Failed:
    return wire.Failed(id=name, error=problems.make("invalid-rollout", detail, field))
