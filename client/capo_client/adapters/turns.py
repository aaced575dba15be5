"""The policy's own part of a trajectory, without the text of tools and of the environment.

Frameworks mark the policy's tokens with a mask of one flag per token: `response_mask` (verl),
`loss_mask` (slime, SkyRL), `tool_mask` (TRL). Only marked tokens are sent, each run of them as a
turn, and only they get rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from capo_wire.segmentation import Span
from capo_wire.token_offsets import decode_with_offsets

# Makes two turns two steps under `blank_line`, and keeps "12" and "5" from becoming "125".
BETWEEN_TURNS = "\n\n"


def policy_flags(ids: Sequence[int], mask: Iterable[Any] | None) -> list[bool]:
    """Which of T tokens the policy sampled; all of them without a mask.

    Raises:
        ValueError: the mask's length differs from that of the ids, or it marks none of them.
    """
    if mask is None:
        return [True] * len(ids)
    flags = [bool(flag) for flag in mask]
    if len(flags) != len(ids):
        raise ValueError(f"the mask has {len(flags)} flags for {len(ids)} token ids")
    if ids and not any(flags):
        raise ValueError(f"the mask marks none of the {len(ids)} token ids as the policy's own")
    return flags


def policy_runs(ids: Sequence[int], flags: Sequence[bool]) -> list[list[int]]:
    """The policy's own ids, as one list for each turn."""
    runs = groupby(zip(flags, ids, strict=True), key=lambda pair: pair[0])
    return [[token for _, token in run] for own, run in runs if own]


def decode_turns(
    tokenizer: Any, ids: Sequence[int], flags: Sequence[bool]
) -> tuple[str, list[Span]]:
    """Decode the tokens that the policy sampled; see `decode_with_offsets`.

    Args:
        tokenizer: one of transformers, or a `tokenizers.Tokenizer`.
        ids: T token ids.
        flags: T flags, true for the policy's own.

    Returns:
        The text, with `BETWEEN_TURNS` between turns, and the span of each of the policy's own
        tokens.
    """
    text = ""
    spans: list[Span] = []
    for run in policy_runs(ids, flags):
        turn, turn_spans = decode_with_offsets(tokenizer, run)
        if text and turn:
            text += BETWEEN_TURNS
        spans += [(start + len(text), end + len(text)) for start, end in turn_spans]
        text += turn
    return text, spans


def check_count(rewards: Sequence[float], flags: Sequence[bool]) -> None:
    """Check that there is one reward for each token of the policy.

    Raises:
        ValueError: there are more or fewer; the message has both numbers.
    """
    if len(rewards) != sum(flags):
        raise ValueError(
            f"the service returned {len(rewards)} token rewards for {sum(flags)} token ids: its "
            "version does not match this client's"
        )


def spread(rewards: Sequence[float], flags: Sequence[bool]) -> list[float]:
    """Rewards of the policy's own tokens -> T rewards, with 0.0 for all other tokens.

    Raises:
        ValueError: there are more or fewer rewards than tokens of the policy.
    """
    check_count(rewards, flags)
    following = iter(rewards)
    return [next(following) if own else 0.0 for own in flags]


def policy_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text of the assistant's messages, with `BETWEEN_TURNS` between them."""
    turns = (content_text(message) for message in messages if message.get("role") == "assistant")
    return BETWEEN_TURNS.join(turn for turn in turns if turn.strip())


def content_text(message: Mapping[str, Any]) -> str:
    """The text of a chat message, whose content may be text or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
