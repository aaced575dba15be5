"""Kinds of judges that think, by how their thoughts begin and end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from capo_service.engine.base import JudgePrompt, TokenPrompt
from capo_service.engine.prompt_encoder import PromptEncoder
from kit import tokenizer
from kit_judges import CHATML

HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
SWITCH = (
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
HARMONY_TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
HARMONY_CLOSING = "<|end|><|start|>assistant<|channel|>final<|message|>"


@dataclass(frozen=True)
class Kind:
    """A kind of judge: its tokenizer, added tokens, chat template and own markers."""

    base: str
    tokens: tuple[str, ...]
    template: str
    opening: str
    closing: str
    own: bool = False
    ends_by_token: bool = True
    merges: tuple[str, ...] = ()  # of its byte-pair encoding, in addition: pairs with a blank

    def encoder(
        self, folder: Path, after: str = "", switched: bool = False, **kwargs: object
    ) -> PromptEncoder:
        data = json.loads(tokenizer(self.base).to_str())
        if self.merges:
            vocabulary = data["model"]["vocab"]
            known = [token for token in data["added_tokens"] if token["content"] in vocabulary]
            data["added_tokens"] = known  # the ids of others follow those of the vocabulary
            for merge in self.merges:
                data["model"]["merges"].append(merge.split())
                vocabulary.setdefault(merge.replace(" ", ""), len(vocabulary))
        built = Tokenizer.from_str(json.dumps(data))
        built.add_tokens(
            [AddedToken(text, special=False, normalized=False) for text in self.tokens]
        )
        fast = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|endoftext|>")
        fast.chat_template = self.template + (SWITCH if switched else f"{{{{ {after!r} }}}}")
        fast.save_pretrained(folder)
        markers = (self.opening, self.closing) if self.own else None
        return PromptEncoder(str(folder), kwargs or None, markers)


KINDS = {
    "token": Kind("qwen", ("<think>", "</think>"), CHATML, "<think>\n", "</think>\n\n"),
    "text": Kind("gpt2", (), PLAIN, "<think>\n", "</think>\n\n", ends_by_token=False),
    "mistral": Kind("qwen", ("[THINK]", "[/THINK]"), CHATML, "[THINK]", "[/THINK]"),
    "seed": Kind(
        "qwen", ("<seed:think>", "</seed:think>"), CHATML, "<seed:think>", "</seed:think>"
    ),
    "gpt-oss": Kind(
        "gpt2", HARMONY_TOKENS, HARMONY, "<|channel|>analysis<|message|>", HARMONY_CLOSING
    ),
    "own": Kind("gpt2", (), PLAIN, "Notes:\n", "\nVerdict:\n", own=True, ends_by_token=False),
    "own, of one character": Kind("gpt2", (), PLAIN, "###", "---", own=True, ends_by_token=False),
    "own, in the vocabulary": Kind(
        "qwen",
        (),
        CHATML,
        "<r>",
        "</r>",
        own=True,
        merges=("< r", "<r >", "< /", "</ r", "</r >"),
    ),
    "own, as tokens": Kind("gpt2", ("<r>", "</r>"), PLAIN, "<r>", "</r>", own=True),
}


def encoders(folder: Path) -> dict[str, PromptEncoder]:
    return {name: kind.encoder(folder / str(i)) for i, (name, kind) in enumerate(KINDS.items())}


def text_of(judge: PromptEncoder, ids: Sequence[int]) -> str:
    """The text of a prompt, control tokens included."""
    return judge._trusted.decode(list(ids), skip_special_tokens=False)


def asked(judge: PromptEncoder, *user: str, thinking: bool) -> TokenPrompt:
    segments = tuple((text, False) for text in user)
    return judge.encode(JudgePrompt((("Rules", True),), segments, "", thinking))
