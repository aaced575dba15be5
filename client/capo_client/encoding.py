"""Rollouts as JSON, whether their ids are lists, numpy arrays or torch tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import capo_wire as wire
from capo_client._problems import invalid_request
from capo_wire.token_offsets import offsets_of, token_lengths

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
    if turns := fields.get("response_turns"):
        return len(str(turns)) // 4
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


def mask_of(rollout: RolloutLike) -> Sequence[int] | None:
    """The rollout's `response_mask` as a list; None if it has none."""
    mask: Sequence[int] | None = _listed(_fields(rollout).get("response_mask"))
    return mask


@dataclass(frozen=True, slots=True)
class EncodedRollout:
    """A rollout as JSON, with its tokens in the form that a service knows.

    Lengths have a sixth of the bytes of offsets, which every service of this wire knows. Both are
    None where one does not say the same as the other; `text` then has what the caller gave.
    """

    text: str
    offsets: Sequence[Sequence[int]] | None = None
    lengths: Sequence[int] | None = None

    @property
    def is_flexible(self) -> bool:
        """Whether the form of the tokens can be chosen."""
        return self.lengths is not None

    def json(self, with_lengths: bool) -> str:
        """The rollout with `token_lengths`, if it is flexible, or with `token_offsets`."""
        if not self.is_flexible:
            return self.text
        if with_lengths:
            name, tokens = "token_lengths", json.dumps(self.lengths, separators=(",", ":"))
        else:
            name, tokens = "token_offsets", json.dumps(self.offsets)
        return f'{self.text[:-1]}, "{name}": {tokens}}}'

    def is_refused(self, problem: wire.Problem) -> bool:
        """Whether a service refuses the rollout because it does not know `token_lengths`."""
        is_unknown = problem.field == "token_lengths" and "unknown field" in problem.detail
        return self.is_flexible and is_unknown


def encode(rollout: RolloutLike, name: str) -> EncodedRollout:
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
    offsets, lengths = _token_forms(fields)
    left_out = ("token_offsets", "token_lengths") if lengths is not None else ()
    rest = {field: value for field, value in fields.items() if field not in left_out}
    try:
        return EncodedRollout(_dumps({**rest, "id": name}), offsets, lengths)
    except (TypeError, ValueError, RecursionError) as error:
        for field, value in fields.items():
            try:
                _dumps({field: value})
            except (TypeError, ValueError, RecursionError) as fault:
                raise UnsendableError(f"{field}: {fault}", str(field)) from None
        raise UnsendableError(str(error)) from None


def _token_forms(
    fields: Mapping[str, Any],
) -> tuple[Sequence[Sequence[int]] | None, Sequence[int] | None]:
    """The tokens' offsets and lengths; both None where only one form can say it."""
    offsets, lengths = fields.get("token_offsets"), fields.get("token_lengths")
    response = fields.get("response")
    if not isinstance(response, str) or (offsets is None) == (lengths is None):
        return None, None
    if offsets is None:
        lengths = _listed(lengths)
        are_lengths = isinstance(lengths, list) and all(
            type(length) is int and length >= 0 for length in lengths
        )
        if not are_lengths or sum(lengths) != len(response):
            return None, None
        return offsets_of(lengths), lengths
    offsets = _listed(offsets)
    if not isinstance(offsets, list | tuple):
        return None, None
    lengths = token_lengths(offsets, len(response))
    return (offsets, lengths) if lengths is not None else (None, None)


def _listed(value: Any) -> Any:
    """An array or a tensor as a list; anything else as it is."""
    return convert() if callable(convert := getattr(value, "tolist", None)) else value


def without_token_rewards(
    options: dict[str, Any], rollouts: Iterable[RolloutLike]
) -> tuple[dict[str, Any], bool]:
    """The options to send, and whether token rewards are expanded here from those of the steps.

    A mapping may have fields that this version does not know, which may change what tokens get: the
    service then sends their rewards.
    """
    include = options.get("include", ["token_rewards"])
    known = wire.Rollout.model_fields
    if "token_rewards" not in include or not all(
        isinstance(rollout, wire.Rollout)
        or (isinstance(rollout, Mapping) and known.keys() >= rollout.keys())
        for rollout in rollouts
    ):
        return options, False
    return options | {"include": [each for each in include if each != "token_rewards"]}, True


def _fields(rollout: RolloutLike) -> Mapping[str, Any]:
    if isinstance(rollout, wire.Rollout):
        return vars(rollout)
    return rollout if isinstance(rollout, Mapping) else {}


def _dumps(value: Any) -> str:
    return json.dumps(value, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    """Arrays, tensors, their numbers and models of the HTTP API, as JSON types."""
    if (listed := _listed(value)) is not value:
        return listed
    if isinstance(value, wire.RequestModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, range):
        return list(value)
    raise TypeError(f"a value of type {_type(value)} cannot be written as JSON")


def _type(value: Any) -> str:
    return type(value).__qualname__
