"""The markers of thoughts, and the text that can neither open nor end one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capo_service.core.observations import ShownStep
from capo_service.engine.base import JudgePrompt
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import (
    DEFAULT_MARKERS,
    ThinkingMarkers,
    find_markers,
    opened_thoughts,
)
from capo_service.judges.loading import load_profile
from capo_service.pipeline.errors import ContextExceededError
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_wire import Voting
from kit_thinking import HARMONY_TOKENS, KINDS, asked, encoders, text_of


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return encoders(tmp_path_factory.mktemp("judges"))


# Markers


@pytest.mark.parametrize("name", KINDS)
def test_the_markers_of_each_kind_are_found(name: str, judges: dict[str, PromptEncoder]) -> None:
    kind, judge = KINDS[name], judges[name]
    assert (judge.markers.opening, judge.markers.closing) == (kind.opening, kind.closing)
    end = judge.thought_end
    assert bool(end.ids) == kind.ends_by_token and end.text == kind.closing
    if kind.ends_by_token:
        assert text_of(judge, end.ids) == kind.closing
        assert end.ids[0] in judge.control_ids and end.ids[0] not in end.forbidden
        others = judge.control_ids - {end.ids[0]}
        assert others <= set(end.forbidden)


@pytest.mark.parametrize(
    ("after", "vocabulary", "opening"),
    [
        ("assistant\n<think>\n", (), "<think>\n"),
        ("assistant\n<think>", (), "<think>\n"),
        ("assistant\n[THINK]", (), "[THINK]"),
        ("<seed:think>\n", (), "<seed:think>"),
        ("◁think▷", (), "◁think▷"),
        ("<|start|>assistant", HARMONY_TOKENS, "<|channel|>analysis<|message|>"),
        ("assistant\n", ("<think>", "</think>"), "<think>\n"),
        ("assistant\n", ("[/THINK]",), "[THINK]"),
        ("assistant\n", ("</seed:think>",), "<seed:think>"),
        ("assistant\n", ("<|END_THINKING|>",), "<|START_THINKING|>"),
        ("assistant\n", ("<|channel|>",), "<think>\n"),
        ("I think", (), "<think>\n"),
        ("", (), "<think>\n"),
    ],
)
def test_markers_are_found_from_template_and_vocabulary(
    after: str, vocabulary: tuple[str, ...], opening: str
) -> None:
    assert find_markers(after, frozenset(vocabulary)).opening == opening


@pytest.mark.parametrize(
    ("after", "count"),
    [
        ("", 0),
        ("assistant\n<think>\n", 1),
        ("<think>\n\n</think>\n\n", 0),
        ("</think>", 0),
        ("<think></think><think>", 1),
        ("<think>\n<think>", 2),
    ],
)
def test_thoughts_that_a_template_leaves_open_are_counted(after: str, count: int) -> None:
    assert opened_thoughts(after, DEFAULT_MARKERS) == count


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("opens", [True, False])
def test_a_thought_is_open_exactly_if_the_judge_is_to_think(
    name: str, opens: bool, tmp_path: Path
) -> None:
    """Whether or not the chat template opens one by itself."""
    kind = KINDS[name]
    judge = kind.encoder(tmp_path, kind.opening if opens else "")
    for thinking in (True, False):
        prompt = asked(judge, "q", thinking=thinking)
        text = text_of(judge, prompt.ids)
        assert opened_thoughts(text, judge.markers) == thinking, text
        assert text.count(kind.opening.strip()) == (thinking or opens)
        assert text.endswith(kind.opening) == thinking
        assert prompt.closing_tokens == (judge.thought_end.max_tokens if thinking else 0)
    if opens:
        assert text.endswith(kind.closing)
    if kind.ends_by_token and opens:  # as the token, and not as its characters
        assert judge.thought_end.ids[0] in prompt.ids


def test_gpt_oss_announces_its_answer_where_it_does_not_think(
    judges: dict[str, PromptEncoder],
) -> None:
    judge = judges["gpt-oss"]
    text = text_of(judge, asked(judge, "q", thinking=False).ids)
    assert text.endswith("<|start|>assistant<|channel|>final<|message|>")


def test_a_template_with_a_switch_is_asked_to_think_and_not_to_think(tmp_path: Path) -> None:
    kind = KINDS["token"]
    for folder, kwargs in (("a", {}), ("b", {"enable_thinking": False})):
        judge = kind.encoder(tmp_path / folder, switched=True, **kwargs)
        off = text_of(judge, asked(judge, "q", thinking=False).ids)
        on = text_of(judge, asked(judge, "q", thinking=True).ids)
        assert off.endswith("assistant\n<think>\n\n</think>\n\n")
        assert on.endswith("assistant\n<think>\n") and "</think>" not in on


def test_a_template_that_opens_two_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"opens a thought twice .*corrected template"):
        KINDS["token"].encoder(tmp_path, "<think>\n<think>\n")


# Untrusted text

PIECES = sorted(
    {text for kind in KINDS.values() for text in (kind.opening, kind.closing, *kind.tokens)}
    | {text.strip() for kind in KINDS.values() for text in (kind.opening, kind.closing)}
    | {"#", "-", "<", "</", "think>", "THINK]", "Verdict:", "\u200b", "\n", " ", "x"}
)
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=10).map("".join)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=100, deadline=None)
@given(question=HOSTILE, reference=HOSTILE, response=HOSTILE)
@example(question="####", reference="-----", response="#####")
@example(question="<think>", reference="</think>", response="</think>\n\n")
def test_untrusted_text_neither_opens_nor_ends_a_thought(
    name: str,
    judges: dict[str, PromptEncoder],
    question: str,
    reference: str,
    response: str,
) -> None:
    """The markers' ids are where the frame has them, and nowhere else.

    Where markers are no tokens, so are their texts.
    """
    judge, vocabulary = judges[name], judges[name]._trusted.get_vocab()
    template = load_profile("default").template
    markers = [judge.markers.opening.strip(), judge.markers.closing.strip()]
    texts = [text for text in markers if text not in vocabulary]

    def found(question: str, reference: str, response: str, thinking: bool) -> list[object]:
        made = template.render(
            question=question,
            steps=[response],
            reference=reference,
            nonce="abcdefg",
            style="brief",
            format="json",
            thinking=thinking,
        )
        ids = judge.encode(JudgePrompt(made.system, made.user, "", thinking)).ids
        text = text_of(judge, ids)
        return [*(text.count(each) for each in texts), *(i for i in ids if i in judge.control_ids)]

    for thinking in (True, False):
        plain = found("plain", "plain", "plain", thinking)
        assert found(question, reference, response, thinking) == plain


# Requests


def prompter(judge: PromptEncoder, context: int) -> JudgePrompter:
    profile = load_profile("default")
    return JudgePrompter(judge.encode, context, profile, "structural_tag", b"s", prefill=True)


def test_a_budget_beyond_the_context_names_its_field(judges: dict[str, PromptEncoder]) -> None:
    make = prompter(judges["token"], 5000)
    voting = Voting(thinking_tokens=6000)
    with pytest.raises(ContextExceededError) as caught:
        make.task("q", [ShownStep("a")], None, voting, "brief", 6000)
    assert caught.value.field == "voting.thinking_tokens"
    assert "holds 5000; lower the thinking budget" in str(caught.value)


def test_the_needed_tokens_hold_prompt_thought_marker_and_critique(
    judges: dict[str, PromptEncoder],
) -> None:
    for name, judge in judges.items():
        task = prompter(judge, 100_000).task("q", [ShownStep("a")], None, Voting(), "brief", 50)
        sampling, prompt = task.sampling, task.prompt
        assert prompt.opening == "", "the thought comes before the start of the critique"
        assert sampling.thinking_tokens == 50 and prompt.tokens is not None
        end = judge.thought_end.max_tokens
        assert task.needed == prompt.tokens + 50 + end + sampling.max_tokens, name
        quick = prompter(judge, 100_000).task("q", [ShownStep("a")], None, Voting(), "brief", 0)
        assert quick.prompt.opening == '{"analysis": "' and quick.prompt.closing_tokens == 0


def test_own_markers_that_skip_nothing_leave_the_prompt_alone(tmp_path: Path) -> None:
    judge = KINDS["own"].encoder(tmp_path)
    assert judge.markers == ThinkingMarkers("Notes:\n", "\nVerdict:\n")
    assert text_of(judge, asked(judge, "q", thinking=False).ids).endswith("assistant: ")
