"""Checks of a running service: what must hold on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from context import Context, Found
from made_rollouts import HARD, Made
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from capo_wire import Credited

STYLES = ("verdict", "brief", "full")
FULL_VOTE = {"n": 4, "early_stop": False}


def readiness(context: Context) -> Found:
    """The service is ready, and the engine has limits that were chosen for this device."""
    found = Found()
    limits = context.info.engine_limits
    found.numbers = {
        "ready_s": context.ready_s,
        "context_length": context.info.context_length,
        "max_running": context.info.limits["max_running"],
        "style": context.info.critique_style,
        "engine_limits": limits.model_dump() if limits else None,
    }
    found.check("the service is ready", True, f"{context.ready_s:.0f} s after its start")
    found.check("the engine tells its limits", limits is not None, "`engine_limits` of GET /info")
    if limits is not None:
        running = int(context.info.limits["max_running"])
        fits = running >= limits.slots
        detail = f"max_running {running}, slots {limits.slots} (max_num_seqs x ranks)"
        found.check("as many rollouts run as the engine has slots", fits, detail)
    return found


def alignment(context: Context) -> Found:
    """Each token has the reward of its step, by the judge's tokenizer and by others' offsets."""
    found = Found()
    names = [name for name in context.info.tokenizers if name == context.info.model]
    cases: list[tuple[str, dict[str, Any], list[tuple[int, int]]]] = []
    for title, text in HARD.items():
        for name, spans in _offsets(text).items():
            cases.append((f"{title}, {name}", {"token_offsets": spans}, spans))
        for name in names:
            spelled = context.tokens(name, text)
            sent = {"response_token_ids": spelled.response_token_ids, "tokenizer": name}
            cases.append((f"{title}, the judge's tokens", sent, spelled.token_offsets))
    texts = [HARD[case[0].rpartition(", ")[0]] for case in cases]
    rollouts = [
        {"question": "What is 12 * 8 - 75?", "response": text, "outcome": 1.0, **sent}
        for text, (_, sent, _) in zip(texts, cases, strict=True)
    ]
    batch = context.client.credit(
        rollouts,
        deadline=1800,
        voting={"n": 1, "critique_style": "verdict"},
        include=["token_rewards"],
    ).raise_for_errors()
    for text, (title, _, spans), credit in zip(texts, cases, batch.credited, strict=True):
        if problem := misaligned(text, spans, credit):
            found.check("tokens have the reward of their step", False, f"{title}: {problem}")
    tokens = sum(len(spans) for _, _, spans in cases)
    found.numbers = {"cases": len(cases), "tokens": tokens, "judge_tokenizer": bool(names)}
    if not found.checks:
        detail = f"{len(cases)} cases, {tokens} tokens"
        found.check("tokens have the reward of their step", True, detail)
    if not names:
        found.notes.append("the service does not serve the judge's tokenizer: offsets only")
    return found


def _offsets(text: str) -> dict[str, list[tuple[int, int]]]:
    """Character spans of tokens, by two tokenizers that need no files."""
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Digits(True)]
    )
    byte = Tokenizer(models.BPE({letter: i for i, letter in enumerate(_BYTES)}, []))
    byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte.decoder = decoders.ByteLevel()
    return {"words": words.encode(text).offsets, "bytes": byte.encode(text).offsets}


_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def misaligned(text: str, spans: Sequence[tuple[int, int]], credit: Credited) -> str | None:
    """What is wrong with the token rewards of a credited rollout; None if nothing is."""
    rewards = credit.token_rewards or []
    if len(rewards) != len(spans):
        return f"{len(rewards)} rewards for {len(spans)} tokens"
    steps, at = credit.steps, 0
    for number, (begin, end) in enumerate(spans):
        first = next((i for i in range(begin, end) if not text[i].isspace()), None)
        if first is not None:  # a blank token belongs to the step before it
            at = next(i for i, step in enumerate(steps) if step.span[0] <= first < step.span[1])
        if rewards[number] != steps[at].reward:
            return f"token {number} of step {at} has reward {rewards[number]}"
    cuts = [step.token_span for step in steps if step.token_span]
    if any(one[1] != other[0] for one, other in pairwise(cuts)) or cuts[-1][1] != len(spans):
        return f"the steps' token spans leave a gap: {cuts}"
    return None


def grammar(context: Context) -> Found:
    """Every critique of every style can be read; and how often the judge is right."""
    found = Found()
    for style in STYLES:
        got: list[Credited] = []

        def run(count: int, style: str = style, got: list[Credited] = got) -> float:
            rollouts = context.groups(f"grammar {style} {count}", count, 4)
            voting = {**FULL_VOTE, "critique_style": style, "seed": 1}
            seconds, batch = context.credit(rollouts, voting, include=["critiques"])
            got += batch.credited
            found.numbers[style] = {
                "rollouts": count,
                "seconds": seconds,
                "tokens_per_critique": batch.usage.completion_tokens / batch.usage.critiques_run,
                **accuracy(rollouts, batch.credited),
            }
            return seconds

        context.grow(found, 12, 128, run)
        valid, critiques = _valid(got)
        found.numbers[style] |= {"critiques": critiques, "valid": valid}
        detail = f"{valid} of {critiques}{_unread(got)}"
        found.check(f"every `{style}` critique can be read", valid == critiques, detail)
    return found


def thinking(context: Context) -> Found:
    """Thoughts keep to their budget, and each is followed by a verdict."""
    found = Found()
    for budget in (32, 256):
        got: list[Credited] = []

        def run(count: int, budget: int = budget, got: list[Credited] = got) -> float:
            rollouts = context.groups(f"thinking {budget} {count}", count, 4, "short")
            voting = {**FULL_VOTE, "thinking_tokens": budget, "seed": 1}
            seconds, batch = context.credit(rollouts, voting, include=["critiques"])
            got.extend(batch.credited)
            return seconds

        context.grow(found, 15, 32, run)
        every = [each for credit in got for each in credit.critiques or ()]
        longest = max(each.thinking_tokens for each in every)
        valid, critiques = _valid(got)
        found.numbers[str(budget)] = {
            "longest": longest,
            "mean": sum(each.thinking_tokens for each in every) / critiques,
            "truncated": sum(each.thinking_truncated for each in every) / critiques,
            "valid": valid / critiques,
        }
        name = f"thoughts of at most {budget} tokens"
        found.check(f"{name} keep to it", longest <= budget, f"the longest has {longest}")
        detail = f"{valid} of {critiques}{_unread(got)}"
        found.check(f"{name} end in a verdict", valid == critiques, detail)
    return found


def determinism(context: Context) -> Found:
    """The same seed twice; in other batches rounding differs, so this is reported only."""
    found = Found()

    def run(count: int) -> float:
        rollouts = context.groups(f"determinism {count}", count, 4)
        voting = {**FULL_VOTE, "seed": 5}
        seconds, one = context.credit(rollouts, voting, include=["critiques"])
        again, same = context.credit(rollouts, voting, include=["critiques"])
        _, alone = context.credit(rollouts[:1], voting, include=["critiques"])
        found.numbers = {
            "rollouts": count,
            "equal_critiques_same_batch": _equal(one.credited, same.credited),
            "equal_verdicts_same_batch": _same_verdicts(one.credited, same.credited),
            "equal_critiques_alone": _equal(one.credited[:1], alone.credited),
        }
        return seconds + again

    context.grow(found, 15, 32, run)
    return found


def early_stop(context: Context) -> Found:
    """Early stopping gives the verdicts of the full vote, for fewer tokens."""
    found = Found()
    for method, k in (("majority", 4), ("majority", 8), ("intersection", 4)):
        name = f"{method}, k = {k}"

        def run(count: int, method: str = method, k: int = k, name: str = name) -> float:
            rollouts = context.groups(f"early {method} {k} {count}", count, 8)
            voting = {"method": method, "n": k, "seed": 3}
            every = {**voting, "early_stop": False}
            seconds, full = context.credit(rollouts, every, include=["critiques"])
            less, some = context.credit(rollouts, voting, include=["critiques"])
            same, differ = _stopped(full.credited, some.credited)
            found.numbers[name] = {
                "rollouts": count,
                "same_verdicts": same / count,
                "wrongly_stopped": differ,
                "token_ratio": some.usage.completion_tokens / full.usage.completion_tokens,
                "critique_ratio": some.usage.critiques_run / full.usage.critiques_run,
            }
            return seconds + less

        context.grow(found, 15, 512, run)
        row = found.numbers[name]
        detail = (
            f"{row['rollouts']} rollouts, {row['same_verdicts']:.0%} with the same verdicts, "
            f"{row['wrongly_stopped']} with others from equal critiques"
        )
        ok = row["wrongly_stopped"] == 0
        found.check(f"early stopping keeps the {method} of {k}", ok, detail)
    return found


def _stopped(full: Sequence[Credited], some: Sequence[Credited]) -> tuple[int, int]:
    """Rollouts with the verdicts of the full vote, and with others though critiques are equal."""
    same = differ = 0
    for whole, part in zip(full, some, strict=True):
        if [step.wrong for step in whole.steps] == [step.wrong for step in part.steps]:
            same += 1
        elif _equal([whole], [part]) == 1.0:  # else rounding made other critiques
            differ += 1
    return same, differ


def prefix(context: Context) -> Found:
    """The k critiques of a rollout, and the rollouts of a question, share cached prompts."""
    found = Found()
    voting = {**FULL_VOTE, "critique_style": "verdict"}
    one = context.groups("prefix", 1, 1, "long")
    _, batch = context.credit(one, voting)
    usage = batch.usage
    of_rollout = usage.cached_tokens / usage.prompt_tokens
    size = 8
    _, grouped = context.credit(context.groups("prefix group", size, size), voting)
    of_group = grouped.usage.cached_tokens / grouped.usage.prompt_tokens
    limits = context.info.engine_limits
    found.numbers = {
        "prompt_tokens": usage.prompt_tokens / 4,
        "cached_of_4_critiques": of_rollout,
        "group": size,
        "cached_of_group": of_group,
        "block_size": limits.block_size if limits else None,
    }
    block = limits.block_size if limits else 1
    # Three of four critiques find all but the last, incomplete block.
    least = 0.75 * (1 - (block + 1) / max(usage.prompt_tokens / 4, block + 1))
    detail = f"{of_rollout:.1%} of the prompt tokens, of {least:.1%} to 75% that are possible"
    found.check("the critiques of a rollout share its prompt", of_rollout >= 0.98 * least, detail)
    return found


def accuracy(rollouts: Sequence[Made], credited: Sequence[Credited]) -> dict[str, float]:
    """Step F1 against the checker of the stories."""
    hits = named = actual = 0
    for rollout, credit in zip(rollouts, credited, strict=True):
        for step, wrong in zip(credit.steps, rollout.wrong, strict=True):
            hits += step.wrong and wrong
            named += step.wrong
            actual += wrong
    return {"step_f1": 2 * hits / max(named + actual, 1), "wrong_steps": actual}


def _valid(credited: Sequence[Credited]) -> tuple[int, int]:
    every = [each for credit in credited for each in credit.critiques or ()]
    return sum(each.valid for each in every), len(every)


def _unread(credited: Sequence[Credited]) -> str:
    """The first critique that could not be read."""
    for credit in credited:
        for each in credit.critiques or ():
            if not each.valid:
                return f"; {each.reason} ({each.finish_reason}): {each.text[-200:]!r}"
    return ""


def _equal(one: Sequence[Credited], other: Sequence[Credited]) -> float:
    """Share of equal critiques, of those that were completed in both."""
    pairs = [
        a.text == b.text
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x.critiques or (), y.critiques or (), strict=False)
        if "abort" not in (a.finish_reason, b.finish_reason)
    ]
    return sum(pairs) / max(len(pairs), 1)


def _same_verdicts(one: Sequence[Credited], other: Sequence[Credited]) -> float:
    pairs = [
        a.wrong == b.wrong
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x.steps, y.steps, strict=True)
    ]
    return sum(pairs) / max(len(pairs), 1)
