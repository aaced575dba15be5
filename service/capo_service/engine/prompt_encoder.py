"""Prompt -> the judge's token ids, with control tokens only where its chat template has them.

The chat template is rendered once, around two markers; its text becomes control tokens as usual.
Untrusted segments are encoded separately by a copy of the tokenizer without added tokens, so that
`<|im_end|>` in a rollout becomes ordinary tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from capo_service.engine import control_tokens
from capo_service.engine.base import JudgePrompt, PromptSegment

_SYSTEM, _USER = "\ufdd2", "\ufdd3"  # noncharacters: no template contains them
_LONGEST_MARKER = 60
_OPENED_THOUGHT = re.compile(
    r"(?:<[\w:|]{0,20}think\w{0,20}>|\[THINK\]|◁think▷)\s*\Z", re.IGNORECASE
)
_SHARED_SEGMENTS = 4096  # template, tags and questions: the same in a question's rollouts


class PromptEncoder:
    """Encodes prompts for one judge.

    Raises:
        ValueError: the tokenizer cannot be loaded, or its chat template renders no user turn.
    """

    def __init__(self, model: str, template_kwargs: Mapping[str, Any] | None = None) -> None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ValueError(f"the tokenizer of {model} cannot be loaded: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ValueError(
                f"{model} has no fast tokenizer (tokenizer.json), which the service needs to "
                "encode untrusted text safely; use --engine openai --prompt-form chat instead"
            )
        self.tokenizer_json: str = tokenizer.backend_tokenizer.to_str()
        self._trusted = _fresh(json.loads(self.tokenizer_json))
        plain = json.loads(self.tokenizer_json)
        added = plain["added_tokens"]
        plain["added_tokens"] = []
        self._untrusted = _fresh(plain)
        unknown = self._untrusted.token_to_id(tokenizer.unk_token or "")
        self.control_ids = frozenset(token["id"] for token in added) - {unknown}
        self.before, self.between, self.after = _frame(tokenizer, dict(template_kwargs or {}))
        opened = _OPENED_THOUGHT.search(self.after[-_LONGEST_MARKER:])
        self.thought = opened[0] if opened else ""  # opened by the template and not closed
        known = {token["content"] for token in added}
        frame = self.before + self.between + self.after
        self._plain_markers = [m for m in control_tokens.template_markers(frame) if m not in known]
        self._ids = lru_cache(maxsize=_SHARED_SEGMENTS)(self._encode_segment)

    def encode(self, prompt: JudgePrompt) -> list[int]:
        """The prompt's token ids, up to where the judge begins to write."""
        segments = [(self.before, True), *prompt.system, (self.between, True), *prompt.user]
        segments.append((self.after + prompt.opening, True))
        ids: list[int] = []
        for segment in _merge_trusted(segments):
            ids += self._ids(segment)
        return ids

    def _encode_segment(self, segment: PromptSegment) -> list[int]:
        text, trusted = segment
        if trusted:
            return self._trusted.encode(text, add_special_tokens=False).ids
        text = control_tokens.break_markers(text, self._plain_markers)
        text = text.encode("utf-8", "replace").decode()  # the tokenizer refuses lone surrogates
        ids = self._untrusted.encode(text, add_special_tokens=False).ids
        if self.control_ids.isdisjoint(ids):
            return ids
        # A vocabulary may hold a control string as an ordinary token: spell it by characters.
        return [
            index
            for position, original in enumerate(ids)
            for index in (
                self._spell(self._untrusted.id_to_token(original) or "")
                if original in self.control_ids
                else ids[position : position + 1]
            )
        ]

    def _spell(self, token: str) -> list[int]:
        pieces = (self._untrusted.encode(c, add_special_tokens=False).ids for c in token)
        return [index for piece in pieces for index in piece if index not in self.control_ids]


def _fresh(data: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _merge_trusted(segments: list[PromptSegment]) -> list[PromptSegment]:
    merged: list[PromptSegment] = []
    for text, trusted in segments:
        if merged and trusted and merged[-1][1]:
            merged[-1] = (merged[-1][0] + text, True)
        elif text:
            merged.append((text, trusted))
    return merged


def _frame(tokenizer: Any, kwargs: dict[str, Any]) -> tuple[str, str, str]:
    """The chat template's text before the system turn's content, between, and after the user's."""
    if not tokenizer.chat_template:
        return tokenizer.bos_token or "", "\n\n", "\n\n"
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    merged = [{"role": "user", "content": f"{_SYSTEM}\n\n{_USER}"}]
    for messages in (turns, merged):
        try:
            rendered = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **kwargs
            )
        except Exception:  # noqa: S112  # templates raise anything for roles they do not know
            continue
        before, has_system, rest = rendered.partition(_SYSTEM)
        between, has_user, after = rest.partition(_USER)
        if has_system and has_user and _USER not in after and _SYSTEM not in rest:
            return before, between, after
    raise ValueError(
        "the judge's chat template renders no system or user text; pass --chat-template-kwargs, or "
        "serve the model with a corrected template"
    )
