"""Request parameters that an upstream refuses, learned from its error messages.

Models refuse parameters that others need: some take `max_completion_tokens` in place of
`max_tokens`, some no temperature, and hosted APIs refuse what they do not know. The parameter is
named in the response, so it is left out from then on.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator
from typing import Any

from capo_service.engine.openai_answer import object_of
from capo_service.engine.openai_upstream import RefusedError

log = logging.getLogger(__name__)

_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
# Parameters that can be left out, and what follows. Of several that one message names, the first.
_CONSEQUENCES = {
    "chat_template_kwargs": "the server's own settings decide whether the judge thinks",
    "thinking_token_budget": "thoughts are bounded by the limit of the whole critique only",
    "return_token_ids": "thought and verdict are sampled in two requests",
    "seed": "critiques cannot be repeated by their seed",
    "top_p": "the server's own value is used",
    "temperature": "the server's own value is used",
    _LIMIT: f"sent as {_NEW_LIMIT}",
}
_EXTENSIONS = ("chat_template_kwargs", "thinking_token_budget", "return_token_ids")
# Keywords of JSON schemas that some servers refuse; the reader checks what they would.
_KEYWORDS = ("maxLength", "minimum", "maximum", "maxItems")
# Other messages also name a parameter, such as "max_tokens is too large".
_UNKNOWN = (
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|extra[ _]|"
    r"cannot find|deprecated"
)
_REFUSAL = re.compile(_UNKNOWN + "|allowed|both|only", re.IGNORECASE)
_REFUSED_LIMIT = re.compile(f"{_UNKNOWN}|{_NEW_LIMIT}", re.IGNORECASE)
_LONGEST = 4000  # characters of a message that are read


class Refusals:
    """What one upstream refuses.

    Args:
        required: parameters that the operator set: a server that refuses them is an error.
    """

    def __init__(self, required: Collection[str] = ()) -> None:
        self._required = frozenset(required)
        self._left_out: set[str] = set()
        self._keywords: set[str] = set()

    def accepted(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request without what the upstream refuses."""
        kept = {name: value for name, value in body.items() if name not in self._left_out}
        if _LIMIT in self._left_out and _LIMIT in body:
            kept[_NEW_LIMIT] = body[_LIMIT]
        if self._keywords and "response_format" in kept:
            kept["response_format"] = _without(kept["response_format"], self._keywords)
        return kept

    def learn(self, error: RefusedError, body: dict[str, Any]) -> bool:
        """Whether a request as `accepted` gives it now may be taken, where `body` was refused.

        Args:
            error: the upstream's response.
            body: the request, as it was sent.
        """
        if error.status not in (400, 422):
            return False
        message = _message(error.body)
        return self._learn_parameter(message, body) or self._learn_keywords(message, body)

    def explained(self, error: RefusedError) -> RefusedError:
        """The error, with the setting to change where the response names one."""
        message = _message(error.body)
        for name in sorted(self._required):
            if _names(message, name):
                told = f"{error}; change the setting {name}, or unset it"
                return RefusedError(told, error.status, error.body)
        return error

    def _learn_parameter(self, message: str, body: dict[str, Any]) -> bool:
        for name, consequence in _CONSEQUENCES.items():
            if name not in body or name in self._required or not _names(message, name):
                continue
            refusal = _REFUSED_LIMIT if name == _LIMIT else _REFUSAL
            if name not in _EXTENSIONS and not refusal.search(message):
                continue
            if name not in self._left_out:
                self._left_out.add(name)
                log.warning("upstream refuses %s; %s (%s)", name, consequence, message[:300])
            return True
        return False

    def _learn_keywords(self, message: str, body: dict[str, Any]) -> bool:
        schema = json.dumps(body.get("response_format"))
        if "schema" not in message.lower() or not _REFUSAL.search(message):
            return False
        named = {word for word in _KEYWORDS if f'"{word}"' in schema and _names(message, word)}
        if new := named - self._keywords:
            self._keywords |= new
            log.warning(
                "upstream refuses %s in a JSON schema; left out (%s)",
                ", ".join(sorted(new)),
                message[:300],
            )
        return bool(named)


def _message(body: str) -> str:
    """What a response says, without the request that some servers repeat in it."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body[:_LONGEST]
    answer = answer[0] if isinstance(answer, list) and answer else answer
    return " ".join(_texts(answer))[:_LONGEST]


def _texts(answer: Any) -> Iterator[str]:
    if isinstance(answer, str):
        yield answer
    error = object_of(object_of(answer).get("error")) or object_of(answer)
    for key in ("error", "message", "detail", "param", "code"):
        if isinstance(value := error.get(key), str):
            yield value
    for key in ("detail", "message"):
        nested = object_of(error.get(key)).get("detail", error.get(key))
        for item in nested if isinstance(nested, list) else []:
            place = object_of(item).get("loc")
            yield " ".join(str(part) for part in place) if isinstance(place, list) else ""
            yield f"{object_of(item).get('type', '')} {object_of(item).get('msg', '')}"


def _names(message: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", message) is not None


def _without(value: Any, keywords: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, keywords) for k, v in value.items() if k not in keywords}
    return [_without(v, keywords) for v in value] if isinstance(value, list) else value
