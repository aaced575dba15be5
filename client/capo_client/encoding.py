"""Rollouts as JSON, whatever holds their ids: lists, numpy arrays, torch tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import capo_wire as wire

RolloutLike = wire.Rollout | Mapping[str, Any]


class UnsendableError(Exception):
    """A rollout that is no JSON. `problem` names the field."""

    def __init__(self, problem: wire.Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def question_of(rollout: RolloutLike) -> str:
    """What the rollout answers, as far as it can be told; it need not be a valid one."""
    given = _fields(rollout)
    question = given.get("question")
    return str(given.get("messages") if question is None else question)


def tokens_of(rollout: RolloutLike) -> int:
    """About how long a rollout is; it need not be a valid one."""
    given = _fields(rollout)
    ids, text = given.get("response_token_ids"), given.get("response")
    if hasattr(ids, "__len__") and not isinstance(ids, str):
        try:
            return len(ids)  # type: ignore[arg-type]  # has a length, as was asked
        except TypeError:  # a tensor without a dimension
            return 0
    return len(text) // 4 if isinstance(text, str) else 0


def name_of(rollout: RolloutLike, otherwise: str) -> str:
    """The caller's own id, where the rollout brings one."""
    name = _fields(rollout).get("id")
    return name if isinstance(name, str) else otherwise


def encode(rollout: RolloutLike, name: str) -> str:
    """A rollout as JSON, under `name` for its id.

    Raises:
        UnsendableError: a field of it is no JSON.
    """
    if isinstance(rollout, wire.Rollout):
        fields: Mapping[str, Any] = rollout.model_dump(mode="json", exclude_none=True)
    elif isinstance(rollout, Mapping):
        fields = rollout
    else:
        raise _unsendable(None, f"a rollout is a Rollout or a mapping, not {_type(rollout)}")
    try:
        return _dumps({**fields, "id": name})
    except (TypeError, ValueError, RecursionError) as error:
        for field, value in fields.items():
            try:
                _dumps({field: value})
            except (TypeError, ValueError, RecursionError) as fault:
                raise _unsendable(str(field), f"{field}: {fault}") from None
        raise _unsendable(None, str(error)) from None


def _fields(rollout: RolloutLike) -> Mapping[str, Any]:
    if isinstance(rollout, wire.Rollout):
        return vars(rollout)
    return rollout if isinstance(rollout, Mapping) else {}


def _dumps(value: Any) -> str:
    return json.dumps(value, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    """What JSON has for arrays, tensors and their numbers, and for models of the wire."""
    if callable(convert := getattr(value, "tolist", None)):
        return convert()
    if isinstance(value, wire.Rollout | wire.ChatTurn | wire.TextPart):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, range):
        return list(value)
    raise TypeError(f"a value of type {_type(value)} is no JSON")


def _type(value: Any) -> str:
    return type(value).__qualname__


def _unsendable(field: str | None, detail: str) -> UnsendableError:
    return UnsendableError(
        wire.Problem(
            type="urn:capo:problem:invalid-request",
            title="The request is not valid",
            status=422,
            detail=detail,
            field=field,
        )
    )
