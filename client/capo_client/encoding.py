"""Rollouts as JSON, whether their ids are lists, numpy arrays or torch tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import capo_wire as wire
from capo_client._problems import invalid_request

RolloutLike = wire.Rollout | Mapping[str, Any]


class UnsendableError(Exception):
    """A rollout that cannot be written as JSON. `problem` names the field."""

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.problem = invalid_request(detail, field)


def question_of(rollout: RolloutLike) -> str:
    """The question as a key to group rollouts by; the rollout need not be valid."""
    if isinstance(rollout, wire.Rollout):
        return rollout.prompt_text()
    fields = _fields(rollout)
    question = fields.get("question")
    return str(fields.get("messages") if question is None else question)


def tokens_of(rollout: RolloutLike) -> int:
    """The approximate number of response tokens; the rollout need not be valid."""
    fields = _fields(rollout)
    ids, text = fields.get("response_token_ids"), fields.get("response")
    if hasattr(ids, "__len__") and not isinstance(ids, str):
        try:
            return len(ids)  # type: ignore[arg-type]  # it has __len__
        except TypeError:  # a tensor without a dimension
            return 0
    return len(text) // 4 if isinstance(text, str) else 0


def name_of(rollout: RolloutLike, default: str) -> str:
    """The caller's own id, or `default` where the rollout has none."""
    name = _fields(rollout).get("id")
    return name if isinstance(name, str) else default


def encode(rollout: RolloutLike, name: str) -> str:
    """A rollout as JSON, with `name` for its id.

    Raises:
        UnsendableError: a field cannot be written as JSON.
    """
    if isinstance(rollout, wire.Rollout):
        fields: Mapping[str, Any] = rollout.model_dump(mode="json", exclude_none=True)
    elif isinstance(rollout, Mapping):
        fields = rollout
    else:
        raise UnsendableError(f"a rollout is a Rollout or a mapping, not {_type(rollout)}")
    try:
        return _dumps({**fields, "id": name})
    except (TypeError, ValueError, RecursionError) as error:
        for field, value in fields.items():
            try:
                _dumps({field: value})
            except (TypeError, ValueError, RecursionError) as fault:
                raise UnsendableError(f"{field}: {fault}", str(field)) from None
        raise UnsendableError(str(error)) from None


def _fields(rollout: RolloutLike) -> Mapping[str, Any]:
    if isinstance(rollout, wire.Rollout):
        return vars(rollout)
    return rollout if isinstance(rollout, Mapping) else {}


def _dumps(value: Any) -> str:
    return json.dumps(value, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    """Arrays, tensors, their numbers and models of the HTTP API, as JSON types."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    if isinstance(value, wire.Rollout | wire.ChatTurn | wire.TextPart | wire.Criterion):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, range):
        return list(value)
    raise TypeError(f"a value of type {_type(value)} cannot be written as JSON")


def _type(value: Any) -> str:
    return type(value).__qualname__
