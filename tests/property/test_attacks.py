"""The structure holds on every attack of the corpus, for judges of every kind of tokenizer.

Here up to the ids that an engine is given; tests/integration sends the corpus to a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

import capo_wire as wire
from capo_client.cli.attack.corpus import SOLUTIONS, Attack, attacks, control
from capo_client.cli.attack.payloads import FAMILIES
from capo_client.cli.attack.run import Tally, finds, tally
from capo_client.cli.attack.structure import broken
from capo_service.core import steps
from capo_service.core.step_code import letters
from capo_service.engine import control_tokens as escaping
from capo_service.engine.base import ChatPrompt, EncodedPrompt, JudgePrompt, TokenPrompt
from capo_service.engine.openai import OpenAIEngine
from capo_service.engine.prompt_encoder import PromptEncoder
from capo_service.judges.loading import load_profile, shipped
from capo_service.pipeline.judge_prompt import JudgePrompter
from capo_service.pipeline.prepare import CritiquePolicy, Preparer
from capo_service.pipeline.prepared import Prepared
from kit_judges import TEMPLATES, encoder
from kit_pipeline import make_preparer
from kit_prompts import judged_one_by_one, read_earlier, read_prompt

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
    return wire.Rollout(question="What is 1 + 1?", response=steps, outcome=0)


def parts(attack: Attack) -> list[tuple[str, bool]]:
    """The steps of an attack and what was observed between them, by the corpus alone."""
    if not attack.is_trajectory:
        return [(attack.response[a:b], True) for a, b in steps.blank_line(attack.response)]
    mask = list(attack.mask or ())
    if not mask:
        mask = [1] * len(attack.response)
        for start, end in attack.rollout().trajectory()[1] or ():
            mask[start:end] = [0] * (end - start)
    runs = groupby(zip(attack.response, mask, strict=True), lambda pair: bool(pair[1]))
    return [("".join(character for character, _ in run), own) for own, run in runs]


def test_the_corpus_has_at_least_200_attacks_that_all_differ() -> None:
    assert len(CORPUS) - len(FAMILIES["harmless"]) >= 200
    assert sum(attack.is_trajectory for attack in CORPUS) >= 30
    assert len({attack.response for attack in CORPUS}) == len(CORPUS)
    assert len({attack.name for attack in CORPUS}) == len(CORPUS)
    for attack in CORPUS:
        if attack.wrong is not None:
            start, end = attack.wrong
            assert attack.response[start:end] in {s.steps[s.wrong] for s in SOLUTIONS}
            assert attack.mask is None or all(attack.mask[start:end])


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
        assert hostile.token_spans == (None if attack.fields else hostile.spans), attack.name
        own = [text for text, is_own in parts(attack) if is_own]
        assert [attack.response[a:b] for a, b in hostile.spans] == own, attack.name


@pytest.mark.parametrize("profile", shipped())
def test_no_attack_contains_the_code_of_its_prompt_and_the_lines_are_ours(profile: str) -> None:
    seen: list[JudgePrompt] = []

    def encode(prompt: JudgePrompt) -> EncodedPrompt:
        seen.append(prompt)
        return TokenPrompt([])

    judge = load_profile(profile)
    prompter = JudgePrompter(encode, None, judge, "structural_tag", SECRET)
    prepare = Preparer(prompter, {}, CritiquePolicy(style="verdict")).prepare
    for attack in CORPUS:
        prepared = prepare(attack.rollout(), OPTIONS)
        untrusted = [text for text, ours in (*seen[-1].system, *seen[-1].user) if not ours]
        code, shown = read_prompt(seen[-1])
        assert not any(code.encode() in letters(text) for text in untrusted), attack.name
        # What the judge reads, line by line, is what the rollout has, in its order.
        wanted = [(text.strip(), own) for text, own in parts(attack)]
        if phrase := judge.answer_phrase:
            wanted = [(t.replace(phrase, phrase[0] + "\u200b" + phrase[1:]), o) for t, o in wanted]
        assert [own for _, own in shown] == [own for _, own in wanted], attack.name
        assert len(prepared.spans) == sum(own for _, own in shown)
        left_out = iter(prepared.trajectory.left_out if prepared.trajectory else ())
        for (text, own), (expected, _) in zip(shown, wanted, strict=True):
            # Nothing of the rollout is changed, but that long observations are cut.
            if own or not (missing := next(left_out)):
                assert text == expected, attack.name
                continue
            head, cut, tail = text.partition(f"\n[... {missing:,} characters left out ...]\n")
            assert cut and expected.startswith(head) and expected.endswith(tail), attack.name
            assert len(head) + len(tail) + missing == len(expected)


@pytest.mark.parametrize("at", range(0, len(CORPUS), 7))
def test_in_windows_no_attack_reads_as_an_earlier_observation(at: int) -> None:
    attack = [*CORPUS[-len(FAMILIES["observations"]) :], *CORPUS][at]
    prepared, prompts = judged_one_by_one(attack.rollout())
    assert len(prompts) == len(prepared.spans)
    for number, prompt in enumerate(prompts):
        earlier = read_earlier(prompt)
        wanted = prepared.shown_steps[number - len(earlier) : number]
        assert [has for _, has in earlier] == [step.observation is not None for step in wanted]
        for (text, _), step in zip(earlier, wanted, strict=True):
            assert text[:20] in " ".join(step.text.split()), attack.name


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
