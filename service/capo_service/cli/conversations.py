"""Conversations -> text and the policy's part of it, by a tokenizer's chat template.

A chat template writes each turn of the policy between a head (the generation prompt) and an end.
What the policy sampled is found by rendering the conversation up to each of its turns. This needs a
template that never changes earlier turns when later ones are added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from capo_service.core.steps import Span

POLICY = "assistant"
_CONTEXT = 24  # characters shown before and after a difference


class TemplateError(ValueError):
    """The chat template cannot say what the policy sampled; the message says why."""


def conversation(rollout: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The chat turns of a rollout with its question; None if it has no turns of the policy."""
    before = rollout.get("messages") or []
    if not before and isinstance(rollout.get("question"), str):
        before = [{"role": "user", "content": rollout["question"]}]
    turns = [*before, *(rollout.get("response_turns") or [])]
    if not all(isinstance(turn, dict) for turn in turns):
        raise TemplateError("a chat turn is not an object")
    found = [_plain(turn) for turn in turns]
    return found if any(turn.get("role") == POLICY for turn in found) else None


def _plain(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn as templates expect it: content is text, and arguments are objects."""
    found = {name: value for name, value in turn.items() if value is not None}
    found.setdefault("content", "")
    if calls := found.get("tool_calls"):
        found["tool_calls"] = [
            {**call, "type": "function", "function": _function(call.get("function") or call)}
            for call in calls
        ]
    return found


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):  # else it stays as the policy wrote it
            arguments = json.loads(arguments or "{}")
    return {"name": function.get("name"), "arguments": arguments}


def rendered(
    tokenizer: Any, turns: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None
) -> tuple[str, int, list[Span]]:
    """A conversation as the chat template writes it.

    Args:
        tokenizer: of Hugging Face's transformers.
        turns: the conversation.
        tools: the tools that the policy may call.

    Returns:
        The text, where the policy's first turn begins in it, and the spans of its turns with the
        token that ends each.

    Raises:
        TemplateError: there is no template, it refuses the conversation, or it writes earlier
            turns differently once later ones follow.
    """
    if not tokenizer.chat_template:
        raise TemplateError("the tokenizer has no chat template: send response_token_ids and mask")

    def text_of(count: int, opened: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(turns[:count]),
                    tools=list(tools) if tools else None,
                    tokenize=False,
                    add_generation_prompt=opened,
                )
            )
        except Exception as error:
            raise TemplateError(f"the chat template refuses the conversation: {error}") from error

    whole = text_of(len(turns), False)
    spans = []
    for number, turn in enumerate(turns):
        if turn.get("role") != POLICY:
            continue
        before, after = text_of(number, True), text_of(number + 1, False)
        for part in (before, after):
            if not whole.startswith(part):
                raise TemplateError(_changed(number, part, whole))
        end = after.rfind(tokenizer.eos_token, len(before)) if tokenizer.eos_token else -1
        spans.append((len(before), len(after) if end < 0 else end + len(tokenizer.eos_token)))
    return whole, spans[0][0], spans


def _changed(number: int, part: str, whole: str) -> str:
    pairs = enumerate(zip(part, whole, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(part), len(whole)))
    return (
        f"the chat template changes the conversation before the end of turn {number} once later "
        f"turns follow: {part[max(at - _CONTEXT, 0) : at + _CONTEXT]!r} becomes "
        f"{whole[max(at - _CONTEXT, 0) : at + _CONTEXT]!r}; train on the sampled ids with "
        "response_mask, not on a rendered conversation"
    )


def masked_ids(
    tokenizer: Any, text: str, begin: int, own: Sequence[Span]
) -> tuple[list[int], list[int]]:
    """The ids of a text from a position on, and a mask: 1 for tokens that begin in `own`.

    Raises:
        TemplateError: the tokenizer cannot say where its tokens are.
    """
    if not tokenizer.is_fast:
        raise TemplateError("the tokenizer gives no offsets: send response_token_ids and mask")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = []
    mask: list[int] = []
    spans = iter(own)
    start, end = next(spans, (len(text), len(text)))
    for token, (first, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if first < begin:
            continue
        while first >= end and end < len(text):
            start, end = next(spans, (len(text), len(text)))
        ids.append(token)
        mask.append(int(start <= first < end))
    return ids, mask
