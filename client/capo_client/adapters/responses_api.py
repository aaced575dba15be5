"""Items of OpenAI's Responses API as chat turns, for frameworks whose agents use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from capo_client.adapters.turns import chat_turn, content_text
from capo_wire.chat import POLICY

# What items have besides what was said and done: ids, states, and a trainer's tokens.
_TOKENS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs", "routed_experts")
_LEFT_OUT = frozenset(
    {"id", "call_id", "type", "status", "role", "encrypted_content", *_TOKENS},
)
# Results that stand in the item of the call itself, where the API's server ran the tool.
_RESULTS = ("output", "outputs", "result", "results", "error")


def chat_turns(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items as chat turns. Chat messages among them are taken as they are.

    Reasoning, a message and the calls that follow one another are one turn of the policy.
    """
    return turns_of_items(items)[0]


def turns_of_items(
    items: Iterable[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[int | None]]:
    """The chat turns, and the position of each item's turn; None for an item without text."""
    turns = _Turns()
    return turns.found, [turns.add(item) for item in items]


class _Turns:
    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def add(self, item: Mapping[str, Any]) -> int | None:
        """Add an item, and return the position of its turn."""
        kind = item.get("type", "message")
        if kind == "message":
            return self._message(item)
        if kind == "reasoning":
            parts = item.get("content") or item.get("summary") or ()
            return self._own({"reasoning_content": content_text({"content": parts})}, new=True)
        if kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments")
            if arguments is None and "input" in item:
                arguments = json.dumps({"input": item["input"]}, ensure_ascii=False)
            return self._call(item, str(item["name"]), arguments)
        if kind.endswith("_output"):
            return self._observation("tool", item.get("output", item), item.get("call_id"))
        if kind.endswith("_call"):
            given = {name: item[name] for name in item if name not in _LEFT_OUT | {*_RESULTS}}
            name = str(given.pop("name", kind))
            place = self._call(item, name, given.get("arguments", _json(given)))
            results = {name: item[name] for name in _RESULTS if item.get(name)}
            if results:
                result = next(iter(results.values())) if len(results) == 1 else results
                self._observation("tool", result, item.get("call_id") or item.get("id"))
            return place
        return self._observation(kind, item, None)

    def _message(self, item: Mapping[str, Any]) -> int | None:
        turn = chat_turn({"role": "user", **item})
        last = self.found[-1] if self.found else {}
        if turn["role"] == POLICY and last.keys() == {"role", "reasoning_content"}:
            last |= {name: value for name, value in turn.items() if name != "role"}
        elif turn["content"].strip() or turn.keys() - {"role", "content", "name"}:
            self.found.append(turn)
        else:
            return None
        return len(self.found) - 1

    def _own(self, given: Mapping[str, Any], new: bool = False) -> int:
        """Add to the policy's last turn, or begin one."""
        if new or not self.found or self.found[-1]["role"] != POLICY:
            self.found.append({"role": POLICY})
        self.found[-1] |= given
        return len(self.found) - 1

    def _call(self, item: Mapping[str, Any], name: str, arguments: Any) -> int:
        call = {"id": item.get("call_id") or item.get("id"), "name": name, "arguments": arguments}
        place = self._own({})
        self.found[place]["tool_calls"] = [*self.found[place].get("tool_calls", ()), call]
        return place

    def _observation(self, role: str, content: Any, call: str | None) -> int:
        text = content_text({"content": content}) if isinstance(content, str | list) else ""
        turn = {"role": role, "content": text or _json(content)}
        self.found.append(turn | ({"tool_call_id": call} if call else {}))
        return len(self.found) - 1


def _json(value: Any) -> str:
    if not value:
        return ""
    if isinstance(value, Mapping):
        value = {name: each for name, each in value.items() if name not in _LEFT_OUT}
    return json.dumps(value, ensure_ascii=False, default=str)
