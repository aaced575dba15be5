"""The response of an OpenAI-compatible server -> a completion. Every field is validated."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from capo_service.engine.base import Completion, CritiqueFailedError

_END_OF_THOUGHT = "</think>"
_LENGTHS = ("length", "max_tokens", "model_length")


def completion_of(answer: dict[str, Any], *, constrained: bool) -> Completion:
    """The first choice in a response of the completions or the chat route.

    Args:
        answer: the response's body.
        constrained: whether the critique was to be one JSON object.

    Raises:
        CritiqueFailedError: there is no completion, or all of it is in the reasoning field.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not ("text" in choice or isinstance(message, dict)):
        raise CritiqueFailedError(f"upstream sent no completion: {str(answer)[:200]}")
    usage = object_of(answer.get("usage"))
    finish = choice.get("finish_reason")
    text, thought = _text_and_thought(
        message if isinstance(message, dict) else {"content": choice["text"]}
    )
    completion = Completion(
        text=text,
        finish_reason=finish if isinstance(finish, str) and finish else "stop",
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(object_of(usage.get("prompt_tokens_details")).get("cached_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )
    if text.strip():
        return completion
    behind = thought.rpartition(_END_OF_THOUGHT)[2] if _END_OF_THOUGHT in thought else ""
    if behind.strip() or (constrained and _is_object(thought)):
        return replace(completion, text=behind if behind.strip() else thought)
    if completion.finish_reason in _LENGTHS:
        raise CritiqueFailedError(_thought_to_the_limit(completion, constrained), completion)
    if thought.strip():
        raise CritiqueFailedError(
            "the upstream put all of the judge's output into its reasoning field and left the "
            "content empty: serve it without --reasoning-parser, or with the parser of this "
            'model, or turn thinking off (chat_template_kwargs={"enable_thinking": false})',
            completion,
        )
    refusal = message.get("refusal") if isinstance(message, dict) else None
    if isinstance(refusal, str) and refusal.strip():
        raise CritiqueFailedError(f"the judge refused: {refusal[:200]}", completion)
    return completion


def _thought_to_the_limit(completion: Completion, constrained: bool) -> str:
    tokens = f" of {completion.completion_tokens} tokens" if completion.completion_tokens else ""
    change = (
        "critique_format=json leaves no room for thinking: set critique_format=tag, or"
        if constrained
        else "raise voting.max_tokens, or"
    )
    return (
        f"the judge thought up to its token limit{tokens} and gave no verdict; {change} "
        'turn thinking off (chat_template_kwargs={"enable_thinking": false})'
    )


def _text_and_thought(message: dict[str, Any]) -> tuple[str, str]:
    """The content of a message, and its reasoning."""
    text, thought = _parts(message.get("content"))
    apart = message.get("reasoning_content") or message.get("reasoning")
    return _clean(text), _clean(thought + "".join(_parts(apart)))


def _parts(content: Any) -> tuple[str, str]:
    """Text and thinking of a message's content, which is a string or a list of typed parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = "", ""
    for part in content if isinstance(content, list) else []:
        if isinstance(part, str):
            text += part
        elif isinstance(part, dict) and part.get("type") in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("text") or part.get("content")
            thought += "".join(_parts(inner))
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            text += part["text"]
    return text, thought


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON can express and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def object_of(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one in place of any other value."""
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    """A number of tokens; 0 in place of a value that is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if math.isfinite(number) and 0 < number < 2**53 else 0
