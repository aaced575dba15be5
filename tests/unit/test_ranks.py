"""Critiques of one question share a data-parallel rank, and no rank waits while another is idle."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from capo_service.engine.base import JudgePrompt
from capo_service.engine.ranks import RankRouter
from kit_judges import encoder


def test_with_one_rank_vllm_is_told_none() -> None:
    with RankRouter(1, 4).route(7) as rank:
        assert rank is None


def test_a_group_stays_on_its_rank_and_new_ones_go_to_the_least_loaded() -> None:
    router = RankRouter(4, slots=100)
    with ExitStack() as running:
        chosen = {g: {running.enter_context(router.route(g)) for _ in range(8)} for g in range(12)}
        assert all(len(ranks) == 1 for ranks in chosen.values())
        counts = [sum(ranks == {rank} for ranks in chosen.values()) for rank in range(4)]
        assert counts == [3, 3, 3, 3]
    with router.route(5) as rank:  # also after its critiques have ended: they are still cached
        assert {rank} == chosen[5]


def test_a_question_with_more_critiques_than_slots_uses_other_ranks_too() -> None:
    router = RankRouter(2, slots=4)
    with ExitStack() as running:
        chosen = [running.enter_context(router.route(0)) for _ in range(12)]
    # It moves when four wait here while four slots are free there, and not back and forth.
    assert chosen == [0, 0, 0, 0] + [1] * 8


def test_questions_that_come_one_by_one_are_spread_too() -> None:
    router, chosen = RankRouter(2, slots=4), []
    for group in range(6):
        with router.route(group) as rank:
            chosen.append(rank)
    assert chosen == [0, 1] * 3


def test_forgotten_groups_get_a_rank_again() -> None:
    router = RankRouter(2, slots=4)
    for group in range(1 << 16):
        with router.route(group):
            pass
    assert len(router._ranks) == 1 << 16
    with router.route(1 << 16):
        pass
    assert len(router._ranks) == 1 << 16 and 0 not in router._ranks


def test_prompts_are_grouped_by_their_question(tmp_path: Path) -> None:
    judge = encoder("qwen", tmp_path)

    def group(question: str, answer: str) -> int:
        user = (("Question: ", True), (question, False), (" Answer: ", True), (answer, False))
        return judge.encode(JudgePrompt((("Judge.", True),), user)).group

    assert group("1 + 1?", "2") == group("1 + 1?", "3") != group("1 + 2?", "3")
