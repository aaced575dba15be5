"""Prompt -> the judge's token ids, with control tokens only where its chat template has them.

The chat template is rendered once, around two markers; its text becomes control tokens as usual.
Untrusted segments are encoded separately by a copy of the tokenizer without added tokens, so that
`<|im_end|>` in a rollout becomes ordinary tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from capo_service.engine import control_tokens
from capo_service.engine.base import JudgePrompt, PromptSegment, TokenPrompt
from capo_service.engine.thinking import (
    ThinkingMarkers,
    ThoughtEnd,
    find_markers,
    opened_thoughts,
)
from capo_service.engine.word_encoding import WordEncoder

_SYSTEM, _USER = "\ufdd2", "\ufdd3"  # noncharacters: no template contains them
# Variables by which chat templates switch thinking on and off; others ignore them.
THINKING_SWITCHES = ("enable_thinking", "thinking")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PLACEHOLDER = re.compile(r"reserved|place.?holder|unused|extra_", re.IGNORECASE)
_SHARED_SEGMENTS = 4096  # template, tags and questions: the same in a question's rollouts


class _Frame(NamedTuple):
    """A chat template's text before the system turn, between the turns, and after the user's."""

    before: str
    between: str
    after: str


class PromptEncoder:
    """Encodes prompts for one judge, and decodes what it writes.

    Args:
        model: hub name or folder of the judge's tokenizer.
        template_kwargs: extra variables for its chat template.
        markers: opening and closing text of the judge's thoughts. Default: found from its chat
            template and its vocabulary.

    Raises:
        ValueError: the tokenizer cannot be loaded, its chat template renders no user turn or opens
            two thoughts, or the markers cannot be told apart.
    """

    def __init__(
        self,
        model: str,
        template_kwargs: Mapping[str, Any] | None = None,
        markers: Sequence[str] | None = None,
    ) -> None:
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
        self._words = WordEncoder(self._untrusted)
        unknown = self._untrusted.token_to_id(tokenizer.unk_token or "")
        self.control_ids = frozenset(token["id"] for token in added) - {unknown}
        given = dict(template_kwargs or {})
        plain_frame = _frame(tokenizer, dict.fromkeys(THINKING_SWITCHES, False) | given)
        thinking_frame = _frame(tokenizer, given | dict.fromkeys(THINKING_SWITCHES, True))
        vocabulary = self._trusted.get_vocab()
        self.largest_id = max(vocabulary.values())
        self.markers = _markers(markers, thinking_frame.after, frozenset(vocabulary))
        self._plain, self._thinking = _with_thought(plain_frame, thinking_frame, self.markers)
        self._bare = self._plain
        texts = [self.markers.opening.strip(), self.markers.closing.strip()]
        self.control_ids |= {vocabulary[text] for text in texts if text in vocabulary}
        self.thought_end = self._thought_end(tokenizer)
        known = {token["content"] for token in added}
        frame = "".join(self._plain + self._thinking)
        plain_markers = {*control_tokens.template_markers(frame), *texts} - known
        self._plain_markers = sorted(plain_markers, key=len, reverse=True)
        self._bytes = _byte_tokens(vocabulary) if plain["model"].get("byte_fallback") else {}
        self._anchor = self._trusted.encode("a", add_special_tokens=False).ids
        self._closing = self._trusted.encode(self.markers.closing, add_special_tokens=False).ids
        self._not_in_thoughts = self.control_ids | ({tokenizer.eos_token_id} - {None})
        self._ids = lru_cache(maxsize=_SHARED_SEGMENTS)(self._encode_segment)

    def _thought_end(self, tokenizer: PreTrainedTokenizerFast) -> ThoughtEnd:
        ids = self._trusted.encode(self.markers.closing, add_special_tokens=False).ids
        first = self._trusted.id_to_token(ids[0]) or ""
        if ids[0] not in self.control_ids or not self.markers.closing.startswith(first):
            return ThoughtEnd(self.markers.closing)
        # vLLM checks the list for every critique, so placeholders, which no judge writes, are left
        # out: some vocabularies have more than a thousand.
        trained = {
            index
            for index in self.control_ids
            if not _PLACEHOLDER.search(self._trusted.id_to_token(index) or "")
        }
        forbidden = (trained | {tokenizer.eos_token_id}) - {ids[0], None}
        return ThoughtEnd(self.markers.closing, tuple(ids), tuple(sorted(forbidden)))

    def encode(self, prompt: JudgePrompt) -> TokenPrompt:
        """The prompt up to where the judge begins to write: inside its thought, if it thinks."""
        frame = self._thinking if prompt.thinking else self._plain
        segments = [(frame.before, True), *prompt.system, (frame.between, True), *prompt.user]
        segments.append((frame.after + prompt.opening, True))
        ids: list[int] = []
        for segment in _merge_trusted(segments):
            ids += self._ids(segment)
        closing = self.thought_end.max_tokens if prompt.thinking else 0
        # Templates show the question, which the rollouts of a group share, before everything else.
        question = next((text for text, trusted in prompt.user if not trusted), "")
        return TokenPrompt(ids, prompt.opening, closing, hash(question))

    def skip_thoughts(self, skips: bool = True) -> None:
        """End prompts without a thought in an empty one, unless their end says so already.

        vLLM with a reasoning parser applies constraints from the end of a thought on.
        """
        self._plain, markers = self._bare, self.markers
        after = self._bare.after
        if skips and not markers.skipping and markers.closing.strip() not in after:
            after = _with_empty_thought(after + markers.opening, markers.closing)
            self._plain = self._bare._replace(after=after)

    def after_thought(self, prompt: TokenPrompt, thought: Sequence[int] | str) -> TokenPrompt:
        """The prompt for a verdict after a thought, which may be text of the judge.

        Args:
            prompt: ends inside a thought.
            thought: what the judge wrote in it. Its control tokens are left out.
        """
        if isinstance(thought, str):
            thought = self._encode_segment((thought, False))
        inside = [index for index in thought if index not in self._not_in_thoughts]
        return TokenPrompt([*prompt.ids, *inside, *self._closing], group=prompt.group)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled tokens, without control tokens.

        A budget may cut a character. The decoders of byte tokens (`<0xE5>`) then also lose the
        bytes next to it, which may begin a marker or end a string, so those are decoded here.
        """
        if self._bytes.keys().isdisjoint(ids):
            return self._decode(ids)
        return "".join(
            bytes(self._bytes[index] for index in group).decode("utf-8", "replace")
            if is_bytes
            else self._decode(list(group))
            for is_bytes, group in groupby(ids, self._bytes.__contains__)
        )

    def _decode(self, ids: Sequence[int]) -> str:
        """Some decoders leave out a blank at the start of a text, so it follows a letter."""
        behind = self._trusted.decode([*self._anchor, *ids], skip_special_tokens=True)
        return behind[len(self._trusted.decode(self._anchor)) :]

    def _encode_segment(self, segment: PromptSegment) -> list[int]:
        text, trusted = segment
        if trusted:
            return self._trusted.encode(text, add_special_tokens=False).ids
        text = control_tokens.break_markers(text, self._plain_markers)
        text = text.encode("utf-8", "replace").decode()  # the tokenizer refuses lone surrogates
        ids = self._words.encode(text)
        if ids is None:
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


def _byte_tokens(vocabulary: Mapping[str, int]) -> dict[int, int]:
    """The byte of each token that stands for one."""
    found = ((index, _BYTE.fullmatch(token)) for token, index in vocabulary.items())
    return {index: int(byte[1], 16) for index, byte in found if byte}


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


def _frame(tokenizer: Any, kwargs: dict[str, Any]) -> _Frame:
    if not tokenizer.chat_template:
        return _Frame(tokenizer.bos_token or "", "\n\n", "\n\n")
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
            return _Frame(before, between, after)
    raise ValueError(
        "the judge's chat template renders no system or user text; pass --chat-template-kwargs, or "
        "serve the model with a corrected template"
    )


def _markers(
    given: Sequence[str] | None, after: str, vocabulary: frozenset[str]
) -> ThinkingMarkers:
    if given is None:
        return find_markers(after, vocabulary)
    opening, closing = given
    return ThinkingMarkers(opening, closing)


def _with_thought(
    plain: _Frame, thinking: _Frame, markers: ThinkingMarkers
) -> tuple[_Frame, _Frame]:
    """The frames without a thought, and inside one."""
    if max(opened_thoughts(frame.after, markers) for frame in (plain, thinking)) > 1:
        raise ValueError(
            f"the judge's chat template opens a thought twice ({thinking.after[-80:]!r}); serve "
            "the model with a corrected template, or set chat_template_kwargs"
        )
    if opened_thoughts(plain.after, markers):
        plain = plain._replace(after=_with_empty_thought(plain.after, markers.closing))
    elif markers.skipping:
        plain = plain._replace(after=plain.after + markers.skipping)
    if not opened_thoughts(thinking.after, markers):
        thinking = thinking._replace(after=thinking.after + markers.opening)
    return plain, thinking


def _with_empty_thought(opened: str, closing: str) -> str:
    blank = "\n\n" if closing.endswith("\n") else ""
    return (opened.rstrip("\n") if blank else opened) + blank + closing
