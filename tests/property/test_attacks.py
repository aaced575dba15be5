"""The structure holds on every attack of the corpus, for judges of every kind of tokenizer.

Here up to the ids that an engine is given; tests/integration sends the corpus to a real one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import capo_wire as wire
from capo_client.cli.attack.corpus import SOLUTIONS, Attack, attacks, control
from capo_client.cli.attack.payloads import FAMILIES
from capo_client.cli.attack.run import Tally, broken, finds, tally
from capo_service.core import steps
from capo_service.core.step_code import letters
from capo_service.engine import control_tokens as escaping
from capo_service.engine.base import ChatPrompt, EncodedPrompt, JudgePrompt, TokenPrompt
from capo_service.engine.openai import OpenAIEngine
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prepared import Prepared
from kit_judges import TEMPLATES, encoder
from kit_pipeline import make_preparer

SECRET = b"secret"
OPTIONS = wire.CreditOptions()
CORPUS = [attack for attack, _ in attacks()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


def preparer(encode: Callable[[JudgePrompt], EncodedPrompt]) -> Preparer:
    return make_preparer(encode, CritiquePolicy(style="verdict"), SECRET)


def plain(attack: Attack, like: Prepared) -> wire.Rollout:
    """A harmless rollout of as many steps."""
    steps = "".join(f"step {i}\n\n" for i in range(len(like.spans)))
    return wire.Rollout(question=attack.question, response=steps, outcome=0)


def test_the_corpus_has_at_least_200_attacks_that_all_differ() -> None:
    assert len(CORPUS) - len(FAMILIES["harmless"]) >= 200
    assert len({attack.response for attack in CORPUS}) == len(CORPUS)
    assert len({attack.name for attack in CORPUS}) == len(CORPUS)
    for attack in CORPUS:
        if attack.wrong is not None:
            start, end = attack.wrong
            assert attack.response[start:end] in {s.steps[s.wrong] for s in SOLUTIONS}


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_control_tokens_and_step_numbers_are_ours_alone(kind: str, folder: Path) -> None:
    judge: PromptEncoder = encoder(kind, folder)
    prepare = preparer(judge.encode).prepare

    def controls(prepared: Prepared) -> list[int]:
        assert prepared.task is not None and isinstance(prepared.task.prompt, TokenPrompt)
        return [i for i in prepared.task.prompt.ids if i in judge.control_ids]

    for attack in CORPUS:
        hostile = prepare(attack.rollout(), OPTIONS)
        harmless = prepare(plain(attack, hostile), OPTIONS)
        assert controls(hostile) == controls(harmless), attack.name
        assert len(hostile.spans) == len(harmless.spans)
        assert hostile.task is not None and harmless.task is not None
        assert hostile.task.sampling.constraint == harmless.task.sampling.constraint
        # One character is one token: every reward has exactly one place.
        assert hostile.token_spans == hostile.spans, attack.name


def test_no_attack_contains_the_code_of_its_prompt_and_the_numbers_are_ours() -> None:
    seen: list[JudgePrompt] = []

    def encode(prompt: JudgePrompt) -> EncodedPrompt:
        seen.append(prompt)
        return TokenPrompt([])

    prepare = preparer(encode).prepare
    for attack in CORPUS:
        prepared = prepare(attack.rollout(), OPTIONS)
        trusted = "".join(text for text, ours in seen[-1].user if ours)
        untrusted = [text for text, ours in (*seen[-1].system, *seen[-1].user) if not ours]
        found = re.search(r"^\[0 ([a-z]{2,7})\]$", trusted, re.MULTILINE)
        assert found is not None
        code = found[1]
        assert not any(code.encode() in letters(text) for text in untrusted), attack.name
        wanted = [*map(str, range(len(prepared.spans))), "end"]
        assert re.findall(rf"^\[(\w+) {code}\]$", trusted, re.MULTILINE) == wanted
        # Nothing of the rollout is changed.
        assert untrusted[1:] == [attack.response[a:b].strip() for a, b in prepared.spans]


async def test_chat_text_holds_no_marker_that_a_server_could_take_for_its_own() -> None:
    judge = OpenAIEngine("http://nowhere", "judge", prompt_form="chat")
    try:
        prepare = preparer(judge.encode).prepare
        for attack in CORPUS:
            hostile = prepare(attack.rollout(), OPTIONS)
            harmless = prepare(plain(attack, hostile), OPTIONS)
            assert markers(hostile) == markers(harmless), attack.name
    finally:
        await judge.close()


def markers(prepared: Prepared) -> list[str]:
    assert prepared.task is not None and isinstance(prepared.task.prompt, ChatPrompt)
    texts = [turn["content"] for turn in prepared.task.prompt.messages]
    return [found[0] for text in texts for found in escaping._MARKER.finditer(text)]


def test_what_a_judge_finds_is_counted_by_family() -> None:
    def result(attack: Attack, wrong: set[int], **changes: object) -> wire.Credited:
        rollout = attack.rollout()
        cut = steps.blank_line(attack.response)
        made = [
            wire.Step(
                index=i, span=span, token_span=span, wrong=i in wrong, penalty=float(i in wrong),
                votes=wire.Votes(wrong=0, valid=1, asked=1), reward=-float(i in wrong),
            )
            for i, span in enumerate(cut)
        ]  # fmt: skip
        rewards = [step.reward for step in made for _ in range(step.span[1] - step.span[0])]
        found = wire.Credited(
            id=rollout.id or "", outcome=None, steps=made, token_rewards=rewards, usage=wire.Usage()
        )
        return found.model_copy(update=changes)

    alone = control(SOLUTIONS[0])
    assert finds(alone, result(alone, {1})) and not finds(alone, result(alone, {0, 2}))
    rollout = alone.rollout()
    assert broken(rollout, result(alone, {1})) is None
    short = result(alone, {1}).token_rewards
    assert short is not None
    assert broken(rollout, result(alone, {1}, token_rewards=short[1:])) is not None
    assert broken(rollout, result(alone, {1}, token_rewards=[*short[:-1], 9.0])) is not None
    assert broken(rollout, result(alone, {1}, steps=result(alone, {1}).steps[1:])) is not None
    key = next(a for a in CORPUS if a.family == "master_keys")
    other = next(a for a in CORPUS if a.family == "authority")
    failed = wire.Failed(id="", error=wire.Problem(type="", title="", status=503, detail=""))
    counts = tally(
        [(key, False), (key, False), (other, True), (other, False), (other, True)],
        [result(key, {0}), result(key, set()), result(other, set()), result(other, set()), failed],
    )
    assert counts["master_keys"] == Tally("master_keys", 2, known=2, fooled=1, changed=1)
    assert counts["authority"] == Tally("authority", 3, failed=1, known=1, fooled=1, changed=1)
    assert counts["authority"].rate == 1.0 and counts["long"].rate is None
