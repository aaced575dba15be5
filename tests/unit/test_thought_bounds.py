"""Thoughts are bounded exactly, and split off from the verdict."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st

from capo_service.core.verdicts.base import VerdictShape
from capo_service.core.verdicts.free_text import FreeText
from capo_service.core.verdicts.step_list import StepList
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.engine.thinking import ThoughtEnd, structural_tag
from capo_service.engine.thought_split import split_thought
from kit_thinking import KINDS, PLAIN, Kind, encoders, text_of


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return encoders(tmp_path_factory.mktemp("judges"))


# The bound


def shape_of(name: str) -> VerdictShape:
    return {
        "verdict": StepList(3, 0),
        "brief": StepList(12, 60),
        "opened": StepList(3, 5).opened(),
        "free text": FreeText(3, 20),
    }[name]


Choice = Callable[[random.Random, np.ndarray, PromptEncoder], int]


def at_random(chance: random.Random, allowed: np.ndarray, judge: PromptEncoder) -> int:
    return int(chance.choice(allowed))


def never_ending(chance: random.Random, allowed: np.ndarray, judge: PromptEncoder) -> int:
    """Anything but the end of the thought, and the shortest tokens: the worst case."""
    end = judge.thought_end
    others = [int(index) for index in allowed if index not in end.ids[:1]]
    lengths = {index: len(judge._trusted.id_to_token(index) or "") for index in others}
    least = min(lengths.values(), default=0)
    return chance.choice([index for index in others if lengths[index] == least] or list(allowed))


def ending_at_once(chance: random.Random, allowed: np.ndarray, judge: PromptEncoder) -> int:
    """The marker, from the first token on, as far as it is allowed."""
    ids = judge.thought_end.ids or judge._trusted.encode(judge.thought_end.marker).ids
    for index in ids[:1]:
        if index in allowed:
            return index
    return int(allowed[0])


def constrained(judge: PromptEncoder, shape: VerdictShape, budget: int) -> xgrammar.GrammarMatcher:
    tokens = [judge._trusted.id_to_token(i) or "" for i in range(judge._trusted.get_vocab_size())]
    stop = judge._trusted.token_to_id("<|endoftext|>")
    info = xgrammar.TokenizerInfo(
        tokens, xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=[stop], add_prefix_space=False
    )
    tag = structural_tag(judge.thought_end if budget else None, budget, shape)
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    return xgrammar.GrammarMatcher(compiler.compile_structural_tag(tag))


def write(
    judge: PromptEncoder, shape: VerdictShape, budget: int, choose: Choice, seed: int
) -> list[int]:
    """What a judge that chooses so writes under the constraint, its end token included."""
    matcher, size = constrained(judge, shape, budget), judge._trusted.get_vocab_size()
    chance, mask, ids = random.Random(seed), xgrammar.allocate_token_bitmask(1, size), []
    while not matcher.is_terminated():
        matcher.fill_next_token_bitmask(mask)
        bits = np.unpackbits(mask[0].numpy().view(np.uint8), bitorder="little")[:size]
        ids.append(choose(chance, np.flatnonzero(bits), judge))
        assert matcher.accept_token(ids[-1])
    return ids


@pytest.mark.parametrize("choose", [at_random, never_ending, ending_at_once])
@pytest.mark.parametrize("shape", ["verdict", "brief", "opened"])
@pytest.mark.parametrize("name", KINDS)
def test_every_critique_is_within_its_bound_and_can_be_read(
    name: str, shape: str, choose: Choice, judges: dict[str, PromptEncoder]
) -> None:
    judge, form = judges[name], shape_of(shape)
    end = judge.thought_end
    for seed in range(4):
        for budget in (1, 7, 32):
            ids = write(judge, form, budget, choose, seed)
            bound = budget + end.max_tokens + form.max_tokens("structural_tag")
            assert len(ids) <= bound, (len(ids), bound)
            written = split_thought(ids, judge, budget)
            assert written.thought_tokens <= budget
            start = StepList(form.n_steps, 5).opening if shape == "opened" else ""
            verdict = form.read(start + written.text)
            assert verdict.wrong is not None, (text_of(judge, ids), verdict.reason)
            if choose is never_ending:
                assert written.thought_tokens == budget
            if choose is ending_at_once and end.ids:
                assert written.thought_tokens == 0 and written.thought == ""
        without = write(judge, form, 0, choose, seed)
        assert len(without) <= form.max_tokens("structural_tag")


LATEX = "so $\\frac{12}{3} = 5$ is wrong: 12 ÷ 3 = 4, \\(x \\le 4\\) \\boxed{4} 因为 {[,]}"


@pytest.mark.parametrize("name", ["token", "text", "gpt-oss"])
def test_latex_and_unicode_in_thought_and_analysis_survive(
    name: str, judges: dict[str, PromptEncoder]
) -> None:
    """What a judge writes so is allowed, and the verdict behind it is read."""
    judge, shape = judges[name], StepList(4, 300)
    critique = f'{{"analysis": "{LATEX}", "incorrect_steps": [1, 3]}}'
    text = LATEX + judge.thought_end.text + critique
    ids = judge._trusted.encode(text, add_special_tokens=False).ids
    matcher = constrained(judge, shape, budget=len(ids))
    for index in ids:
        assert matcher.accept_token(index), judge.decode([index])
    written = split_thought(ids, judge, len(ids))
    assert written.thought == LATEX and written.text == critique
    assert shape.read(written.text).wrong == {1, 3}


def test_free_text_after_a_thought_is_bounded_too(judges: dict[str, PromptEncoder]) -> None:
    for name, judge in judges.items():
        ids = write(judge, shape_of("free text"), 9, never_ending, 1)
        assert len(ids) <= 9 + judge.thought_end.max_tokens + 20 + 1, name


# Splitting


class Scripted:
    """Tokens of given bytes, decoded as a byte-level tokenizer does."""

    def __init__(self, end: ThoughtEnd, *tokens: bytes) -> None:
        self.thought_end, self._tokens = end, tokens

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._tokens[index] for index in ids).decode("utf-8", "replace")


class ByteFallback(Scripted):
    """Decodes each byte of an incomplete character to a replacement of its own."""

    def decode(self, ids: Sequence[int]) -> str:
        data = b"".join(self._tokens[index] for index in ids)
        return (
            data.decode("utf-8", "surrogateescape")
            .encode("utf-16", "surrogatepass")
            .decode("utf-16", "replace")
        )


BY_TOKEN = ThoughtEnd("</think>\n\n", (0, 1))
BY_TEXT = ThoughtEnd("</think>\n\n")


def split(
    end: ThoughtEnd, tokens: Sequence[bytes], budget: int = 8, decoder: type[Scripted] = Scripted
) -> tuple[str, int, str]:
    """Split a critique of these tokens."""
    if end.ids:
        known = [b"", b"\n\n", *tokens]
        ids = [
            0 if token == b"</think>" else 1 if token == b"\n\n" else known.index(token, 2)
            for token in tokens
        ]
        return tuple(split_thought(ids, decoder(end, *known), budget))  # type: ignore[return-value]
    return tuple(split_thought(range(len(tokens)), decoder(end, *tokens), budget))  # type: ignore[return-value]


VERDICT = b'{"incorrect_steps": []}'


@pytest.mark.parametrize(
    ("tokens", "thought"),
    [
        ([b"a", b" b", b"</think>", b"\n\n", VERDICT], ("a b", 2, VERDICT.decode())),
        ([b"</think>", b"\n\n", VERDICT], ("", 0, VERDICT.decode())),
        ([b"a", b"</think>", b"\n\n", b"b", b"</think>"], ("a", 1, "b")),
        ([b"a", b" b"], ("a b", 2, "")),
        ([b"a", b"\xe5\x9b", b"</think>", b"\n\n", VERDICT], ("a�", 2, VERDICT.decode())),
        ([b" \n", b"a", b"\n", b"</think>", b"\n\n", VERDICT], ("a", 3, VERDICT.decode())),
    ],
)
def test_a_thought_is_split_off_at_its_first_end_token(
    tokens: list[bytes], thought: tuple[str, int, str]
) -> None:
    assert split(BY_TOKEN, tokens) == thought


@pytest.mark.parametrize(
    ("tokens", "thought"),
    [
        ([b"a", b" b", b"</think>", b"\n\n", VERDICT], ("a b", 2, VERDICT.decode())),
        ([b"a", b" b", b"</", b"think", b">", b"\n", b"\n", VERDICT], ("a b", 2, VERDICT.decode())),
        ([b"a", b" b<", b"/think>\n", b"\n{", VERDICT[1:]], ("a b", 1, VERDICT.decode())),
        ([b"</think>\n\n", VERDICT], ("", 0, VERDICT.decode())),
        ([b"a", b" b"], ("a b", 2, "")),
        ([b"a", b"</thin"], ("a</thin", 2, "")),
        ([b"a", b"\xe5\x9b", b"</think>\n\n", VERDICT], ("a�", 2, VERDICT.decode())),
        ([b"\xe5", b"\x9b", b"\xa0", b"</think>", b"\n\n", VERDICT], ("因", 3, VERDICT.decode())),
        ([b"a", b"</think>", VERDICT, b"</think>"], ("a", 1, VERDICT.decode() + "</think>")),
    ],
)
def test_a_thought_is_split_off_at_its_first_end_text(
    tokens: list[bytes], thought: tuple[str, int, str]
) -> None:
    assert split(BY_TEXT, tokens) == thought


@pytest.mark.parametrize("decoder", [Scripted, ByteFallback])
@given(
    st.lists(st.sampled_from("aé因🙂 \n"), max_size=12).map("".join),
    st.lists(st.integers(1, 60), max_size=30, unique=True),
)
def test_the_cut_does_not_depend_on_how_characters_are_spread_over_tokens(
    decoder: type[Scripted], thought: str, cuts: list[int]
) -> None:
    data = f"{thought}</think>\n\n".encode() + VERDICT
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    tokens = [data[a:b] for a, b in pairwise(edges)]
    inside = sum(end <= len(thought.encode()) for end in edges[1:])
    assert split(BY_TEXT, tokens, 99, decoder) == (thought.strip(), inside, VERDICT.decode())


@pytest.mark.parametrize("base", ["llama2", "gemma"])
def test_a_cut_character_costs_nothing_of_what_follows_in_byte_tokens(
    base: str, tmp_path: Path
) -> None:
    judge = Kind(base, (), PLAIN, "<think>\n", "</think>\n\n").encoder(tmp_path)

    def spelled(data: bytes) -> list[int]:
        return [judge._trusted.token_to_id(f"<0x{byte:02X}>") for byte in data]

    tail = judge._trusted.encode("a", add_special_tokens=False).ids
    ids = [*tail, *spelled(b"\xe5\x9b</think>\n\n"), *spelled(VERDICT[:3]), *tail]
    thought, tokens, text = split_thought(ids, judge, 8)
    assert (thought.strip(), text.replace(" ", "")) == ("a�", VERDICT[:3].decode() + "a")
    assert tokens == len(tail) + 2
    assert judge.decode(spelled("因🙂".encode())) == "因🙂"


def test_without_a_budget_nothing_is_split_off() -> None:
    tokens = [b"</think>", b"\n\n", VERDICT]
    assert split(BY_TEXT, tokens, 0) == ("", 0, "</think>\n\n" + VERDICT.decode())
