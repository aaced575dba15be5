"""Judges of several kinds of tokenizer, with the chat templates that go with them."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from capo_service.engine.prompt_encoder import PromptEncoder
from kit import tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% else %}{{ bos_token }}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
T5 = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
TEMPLATES = {"qwen": CHATML, "llama2": LLAMA2, "t5": T5, "gpt2": None}


def encoder(kind: str, folder: Path) -> PromptEncoder:
    path = folder / kind
    if not path.exists():
        special = {"bos_token": "<s>", "eos_token": "</s>"} if kind in ("llama2", "t5") else {}
        if kind != "qwen" and kind != "gpt2":
            special["unk_token"] = "<unk>"
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer(kind), **special)
        fast.chat_template = TEMPLATES[kind]
        fast.save_pretrained(path)
    return PromptEncoder(str(path))
