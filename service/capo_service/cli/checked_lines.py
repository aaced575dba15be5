"""Lines of `capo check-alignment`: the rollouts that it reads, and what it says of each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from capo_service.cli.conversations import conversation


@dataclass(frozen=True, slots=True)
class Line:
    """The result for one rollout.

    Attributes:
        line: its number in the file, from 1.
        verdict: `exact`: its ids decode to its text. `aligned`: they do except for white space at
            the ends, special tokens, or what the tokenizer normalises. `wrong`: they do not.
        tokens: how many ids.
        steps: how many steps.
        shared: tokens that span two steps; each belongs to the one with its first non-blank
            character.
        same_by_offsets: whether offsets computed by the client put every token in the same step.
        detail: where it does not align, and the text there.
        turns: how many turns the policy has; 1 if it wrote all of the text.
        others: tokens that the policy did not sample.
    """

    line: int
    verdict: str
    tokens: int = 0
    steps: int = 0
    shared: int = 0
    same_by_offsets: bool = True
    detail: str | None = None
    turns: int = 1
    others: int = 0

    def as_json(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read_rollout(line: str, where: str) -> dict[str, Any]:
    """A rollout: an object with ids, a text or chat turns, of the right types."""
    try:
        rollout = json.loads(line)
        ids, text = rollout.get("response_token_ids"), rollout.get("response")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{where} is not a JSON object: {error}") from None
    if ids is None and text is None:
        try:
            has_turns = conversation(rollout) is not None
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where}: its chat turns cannot be read: {error}") from None
        if not has_turns:
            raise ValueError(
                f"{where} has neither response nor response_token_ids, and no chat turns of role "
                "assistant (messages, response_turns)"
            )
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: response is not a string")
    if not _are_integers(ids):
        raise ValueError(f"{where}: response_token_ids is not a list of integers")
    mask = rollout.get("response_mask")
    if mask is not None:
        if ids is None or not isinstance(mask, list) or any(each not in (0, 1) for each in mask):
            raise ValueError(
                f"{where}: response_mask is not a list of 0 and 1 for the ids of response_token_ids"
            )
        rollout["response_mask"] = list(map(int, mask))
    return dict(rollout)


def _are_integers(ids: object) -> bool:
    return ids is None or (isinstance(ids, list) and all(type(each) is int for each in ids))
