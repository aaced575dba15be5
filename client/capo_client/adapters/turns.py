"""The policy's own part of a trajectory, without what tools and the environment wrote.

Frameworks mark the policy's tokens with a mask of one flag per token: `response_mask` (verl),
`loss_mask` (slime, SkyRL), `tool_mask` (TRL). Only the marked tokens are sent, each run of them as
a turn of its own, and rewards come back for them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from capo_wire.segmentation import Span
from capo_wire.token_offsets import decode_with_offsets

# Between turns: they are two steps under `blank_line`, and "12" and "5" do not become "125".
BETWEEN_TURNS = "\n\n"


def policy_flags(ids: Sequence[int], mask: Iterable[Any] | None) -> list[bool]:
    """Which of T tokens the policy sampled; all of them without a mask.

    Raises:
        ValueError: the mask has another length than the ids, or marks none of them.
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
    """The policy's own ids, a list for each turn: tokens of others stand between two turns."""
    runs = groupby(zip(flags, ids, strict=True), key=lambda pair: pair[0])
    return [[token for _, token in run] for own, run in runs if own]


def decode_turns(
    tokenizer: Any, ids: Sequence[int], flags: Sequence[bool]
) -> tuple[str, list[Span]]:
    """Decode the tokens that the policy sampled; see `decode_with_offsets`.

    Args:
        tokenizer: of Hugging Face, or a `tokenizers.Tokenizer`.
        ids: T token ids.
        flags: T flags, true for the policy's own.

    Returns:
        The text, whose turns are `BETWEEN_TURNS` apart, and a span for each of the policy's own
        tokens, in their order.
    """
    text = ""
    spans: list[Span] = []
    for run in policy_runs(ids, flags):
        turn, places = decode_with_offsets(tokenizer, run)
        if text and turn:
            text += BETWEEN_TURNS
        spans += [(start + len(text), end + len(text)) for start, end in places]
        text += turn
    return text, spans


def check_count(rewards: Sequence[float], flags: Sequence[bool]) -> None:
    """Refuse rewards that are not one for each token of the policy.

    Raises:
        ValueError: there are more or fewer; the message names both numbers.
    """
    if len(rewards) != sum(flags):
        raise ValueError(
            f"the service gave {len(rewards)} token rewards for {sum(flags)} token ids: its "
            "version does not fit this client's"
        )


def spread(rewards: Sequence[float], flags: Sequence[bool]) -> list[float]:
    """Rewards of the policy's own tokens -> T rewards, exactly 0.0 for the tokens of others.

    Raises:
        ValueError: there are more or fewer rewards than tokens of the policy.
    """
    check_count(rewards, flags)
    following = iter(rewards)
    return [next(following) if own else 0.0 for own in flags]


def policy_text(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text of the assistant's messages, whose turns are `BETWEEN_TURNS` apart."""
    turns = (content_text(each) for each in messages if each.get("role") == "assistant")
    return BETWEEN_TURNS.join(turn for turn in turns if turn.strip())


def content_text(message: Mapping[str, Any]) -> str:
    """The text of a chat message, whose content may be text or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
