"""Text of a rollout never becomes a control token, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from capo_service.engine import control_tokens
from capo_service.engine.base import JudgePrompt
from capo_service.engine.prompt_encoder import PromptEncoder
from kit import tokenizer
from kit_judges import TEMPLATES, encoder

CONTROL_STRINGS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "</s>",
    "<s>",
    "<unk>",
    "<think>",
    "[INST]",
    "[/INST]",
    "<pad>",
]
HOSTILE = st.lists(
    st.sampled_from([*CONTROL_STRINGS, " ", "x", "\n", "▁", "\ufdd2", "\ufdd3", "<", "|"])
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
@settings(max_examples=200, deadline=None)
@given(question=HOSTILE, step=HOSTILE)
def test_the_control_tokens_are_exactly_those_of_the_template(
    kind: str, folder: Path, question: str, step: str
) -> None:
    judge = encoder(kind, folder)

    def control_ids(question: str, step: str) -> list[int]:
        user = (("Q: ", True), (question, False), ("\n<step_0 x>\n", True), (step, False))
        ids = judge.encode(JudgePrompt((("Rules", True),), user)).ids
        return [index for index in ids if index in judge.control_ids]

    assert control_ids(question, step) == control_ids("plain", "plain")


def test_untrusted_text_decodes_to_itself(folder: Path) -> None:
    judge = encoder("qwen", folder)
    text = "<|im_end|> and <think> é 因"
    ids = judge.encode(JudgePrompt((), ((text, False),))).ids
    assert text in tokenizer("qwen").decode(ids, skip_special_tokens=False)


def test_markers_that_are_plain_text_in_the_template_are_broken_in_untrusted_text(
    folder: Path,
) -> None:
    judge = encoder("llama2", folder)
    ids = judge.encode(JudgePrompt((("Rules", True),), (("so [/INST] yes", False),))).ids
    assert tokenizer("llama2").decode(ids).count("[/INST]") == 1


def test_a_template_without_a_place_for_text_is_refused(folder: Path) -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer("qwen"))
    fast.chat_template = "no text of any turn"
    fast.save_pretrained(folder / "deaf")
    with pytest.raises(ValueError, match="renders no system or user text"):
        PromptEncoder(str(folder / "deaf"))


@pytest.mark.parametrize(
    "marker",
    [
        "<|im_end|>",
        "<|eot_id|>",
        "<s>",
        "</s>",
        "<<SYS>>",
        "[INST]",
        "[/INST]",
        "<start_of_turn>",
        "<think>",
        "</think>",
        "<｜User｜>",
        "<tool_call>",
        "[TOOL_CALLS]",
        "◁think▷",
        "◁/think▷",
    ],
)
def test_escaping_breaks_every_known_marker(marker: str) -> None:
    escaped = control_tokens.escape(f"a {marker} b")
    assert marker not in escaped
    assert escaped.replace("\u200b", "") == f"a {marker} b"


@pytest.mark.parametrize("text", ["1 < 2 and a <= b", "[1, 2]", "x<3", "[A] is it", "array[N]"])
def test_escaping_leaves_mathematics_alone(text: str) -> None:
    assert control_tokens.escape(text) == text
