"""Chat turns with tool calls, and their text: a conversation before a rollout, or a trajectory.

The form of a tool call in text is the one that most open models write (Hermes, Qwen):
`<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from capo_wire.base import RequestModel
from capo_wire.segmentation import Span

_SEPARATOR = "\n\n"
POLICY = "assistant"  # the role of the policy's own turns
# What roles and names are shown with. A policy names the tool that it calls: with line feeds and
# brackets, the name could imitate the tool's answer, or another turn.
_NOT_IN_NAMES = re.compile(r"[^\w.:/@-]+")
_LONGEST_NAME = 64


class TextPart(RequestModel):
    """One part of a chat turn's content; only text can be judged."""

    type: Literal["text"]
    text: str


class CalledFunction(RequestModel):
    """The function that a tool call names, and its arguments: a JSON text, or an object."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] = ""


class ToolCall(RequestModel):
    """A tool call of a chat turn, as OpenAI's API and chat templates have it."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def text(self) -> str:
        """The call as a policy writes it."""
        arguments = self.function.arguments
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        name = json.dumps(self.function.name, ensure_ascii=False)
        call = f'{{"name": {name}, "arguments": {arguments or "{}"}}}'
        return f"<tool_call>\n{call}\n</tool_call>"


class ChatTurn(RequestModel):
    """One turn of a conversation. `name` is that of the tool, in a tool's turn."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str | list[TextPart] | None = None
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def text(self) -> str:
        """The turn's text: its thought, its content, its tool calls."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        thought = self.reasoning_content
        if not thought and not self.tool_calls:
            return content or ""
        parts = [f"<think>\n{thought}\n</think>" if thought else "", content or ""]
        parts += [call.text() for call in self.tool_calls or ()]
        return "\n".join(part for part in parts if part)


def conversation_text(turns: Sequence[ChatTurn], tools: Sequence[dict[str, Any]] = ()) -> str:
    """A conversation as one text: a single user turn as it is, all others with their roles.

    The tools that the policy may call come first, one JSON object on each line.
    """
    if not tools and len(turns) == 1 and turns[0].role == "user":
        return turns[0].text()
    parts = [tools_text(tools)] if tools else []
    return _SEPARATOR.join(parts + [_with_role(turn, name) for turn, name in _named(turns)])


def tools_text(tools: Sequence[dict[str, Any]]) -> str:
    """The tools that a policy may call, as a text."""
    lines = [json.dumps(tool, ensure_ascii=False) for tool in tools]
    return "\n".join(["Tools that the policy may call:", *lines])


def trajectory_text(turns: Sequence[ChatTurn]) -> tuple[str, list[Span]]:
    """A trajectory as one text, and the character spans that the policy did not write.

    The policy's turns are those of role `assistant`, each as it is; the others have their roles
    and, of tools, their names. Between two turns of the policy is always a span that it did not
    write, if only a blank line.
    """
    parts: list[tuple[str, bool]] = []
    for turn, name in _named(turns):
        is_own = turn.role == POLICY
        text = turn.text() if is_own else _with_role(turn, name)
        if text:
            parts += [(_SEPARATOR, False)] * bool(parts) + [(text, is_own)]
    spans: list[Span] = []
    length = 0
    for text, is_own in parts:
        start, length = length, length + len(text)
        if is_own:
            continue
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, length))
    return "".join(text for text, _ in parts), spans


def _with_role(turn: ChatTurn, name: str | None) -> str:
    role = _plain(turn.role)
    return f"{role} ({_plain(name)}): {turn.text()}" if name else f"{role}: {turn.text()}"


def _plain(name: str) -> str:
    """A role or a name without anything that could pass for more than a name."""
    return _NOT_IN_NAMES.sub("_", name[:_LONGEST_NAME])


def _named(turns: Sequence[ChatTurn]) -> Iterator[tuple[ChatTurn, str | None]]:
    """The turns with their names; a tool's is found by the id of the call that it answers.

    Only calls that the policy made before count, so that none can name an earlier result.
    """
    called: dict[str, str] = {}
    for turn in turns:
        yield turn, turn.name or called.get(turn.tool_call_id or "")
        if turn.role == POLICY:
            called |= {call.id: call.function.name for call in turn.tool_calls or () if call.id}
