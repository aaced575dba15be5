"""The response of an OpenAI-compatible server -> a completion. Every field is validated."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from capo_service.engine.base import Completion, CritiqueFailedError, CritiqueSampling
from capo_wire.special_text import after_thoughts, without_thought_markers

_END_OF_THOUGHT = "</think>"
_LENGTHS = ("length", "max_tokens", "model_length")


@dataclass(frozen=True, slots=True)
class Answer:
    """The first choice in a response of the completions or the chat route.

    Attributes:
        text: the content.
        thought: the reasoning that came apart from the content.
        refusal: why the model gives no content, where it says so.
        token_ids: all sampled tokens, where the server returns them.
        thought_tokens: tokens of the thought, where the server counts them; else 0.
    """

    text: str
    finish_reason: str
    thought: str = ""
    refusal: str = ""
    token_ids: list[int] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thought_tokens: int = 0

    @property
    def is_cut_off(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason in _LENGTHS

    def completion(self) -> Completion:
        """The text as a critique without a thought."""
        return Completion(
            text=self.text,
            finish_reason=self.finish_reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
        )


def answer_of(body: dict[str, Any]) -> Answer:
    """The first choice in a response's body.

    Raises:
        CritiqueFailedError: there is no completion.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not ("text" in choice or isinstance(message, dict)):
        raise CritiqueFailedError(f"upstream sent no completion: {str(body)[:200]}")
    usage = object_of(body.get("usage"))
    finish = choice.get("finish_reason")
    said = message if isinstance(message, dict) else {"content": choice["text"]}
    text, thought = _text_and_thought(said)
    refusal = said.get("refusal")
    counted = object_of(usage.get("completion_tokens_details")).get("reasoning_tokens")
    return Answer(
        text=text,
        finish_reason=finish if isinstance(finish, str) and finish else "stop",
        thought=thought,
        refusal=refusal.strip() if isinstance(refusal, str) else "",
        token_ids=_token_ids(choice.get("token_ids")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(object_of(usage.get("prompt_tokens_details")).get("cached_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        thought_tokens=_count(counted),
    )


def chat_completion(answer: Answer, sampling: CritiqueSampling) -> Completion:
    """The critique in a response of the chat route, its thought apart.

    Without the server's count, the thought's tokens are estimated by its share of the characters.

    Raises:
        CritiqueFailedError: there is no verdict; the message says what to change.
    """
    answer = _with_thought_apart(answer, sampling)
    completion = replace(
        answer.completion(),
        thinking=answer.thought.strip(),
        thinking_tokens=_thought_tokens(answer),
    )
    if answer.text.strip():
        return completion
    completion = replace(completion, thinking_truncated=answer.is_cut_off)
    if answer.is_cut_off:
        raise CritiqueFailedError(_thought_to_the_limit(answer, sampling), completion)
    if answer.thought.strip():
        raise CritiqueFailedError(
            "the upstream put all of the judge's output into its reasoning field and left the "
            "content empty: serve it without --reasoning-parser, or with the parser of this "
            'model, or turn thinking off (chat_template_kwargs={"enable_thinking": false})',
            completion,
        )
    if answer.refusal:
        raise CritiqueFailedError(f"the judge refused: {answer.refusal[:200]}", completion)
    return completion


def _with_thought_apart(answer: Answer, sampling: CritiqueSampling) -> Answer:
    """The verdict in `text` and the thought in `thought`, where the server mixed them up."""
    if not answer.text.strip():
        _, marker, behind = answer.thought.rpartition(_END_OF_THOUGHT)
        # In a thought that was cut off, the marker is a quotation, of the rollout for example.
        if marker and behind.strip() and not answer.is_cut_off:
            return replace(answer, text=behind, thought=answer.thought[: -len(marker + behind)])
        if sampling.constraint is not None and _is_object(answer.thought):
            return replace(answer, text=answer.thought, thought="")
    # What begins as JSON is a verdict, with LaTeX in it perhaps, which is no valid JSON.
    elif sampling.thinking_tokens and not answer.thought and not answer.text.startswith("{"):
        behind = after_thoughts(answer.text) or ""
        if behind.strip() and behind != answer.text:
            thought = without_thought_markers(answer.text[: -len(behind)])
            return replace(answer, text=behind, thought=thought)
    return answer


def _thought_tokens(answer: Answer) -> int:
    if answer.thought_tokens or not answer.thought:
        return answer.thought_tokens
    if not answer.text.strip():
        return answer.completion_tokens
    share = len(answer.thought) / (len(answer.thought) + len(answer.text))
    return round(answer.completion_tokens * share)


def _thought_to_the_limit(answer: Answer, sampling: CritiqueSampling) -> str:
    tokens = f" of {answer.completion_tokens} tokens" if answer.completion_tokens else ""
    if sampling.thinking_tokens:
        change = (
            f"raise its thinking budget of {sampling.thinking_tokens} tokens (thinking_tokens), or "
            "lower reasoning_effort"
        )
    else:
        more = "" if sampling.constraint is not None else "raise voting.max_tokens, or "
        change = (
            f"{more}give it a thinking budget (thinking_tokens), or turn thinking off "
            '(reasoning_effort=none, or chat_template_kwargs={"enable_thinking": false})'
        )
    return f"the judge thought up to its token limit{tokens} and gave no verdict; {change}"


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


def _token_ids(value: Any) -> list[int] | None:
    if not isinstance(value, list) or any(type(i) is not int or i < 0 for i in value):
        return None
    return value


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
