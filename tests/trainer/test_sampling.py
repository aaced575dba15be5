"""Samplers as iterators: rollouts arrive while others are decoded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from capo_trainer.sampling import LocalSampler, sample_all
from capo_trainer.sections import Sampling
from capo_trainer.types import Prompt, SampleRequest
from kit import tokenizer

MAX_TOKENS = 6
END = 0


class SteppedModel:
    """Decodes with `generate`'s signature; the first row ends at once, the others never do."""

    device = torch.device("cpu")

    def __init__(self, before_token: Callable[[int], None] = lambda number: None) -> None:
        self.before_token = before_token
        self.tokens = 0

    def generate(
        self, *, input_ids: torch.Tensor, stopping_criteria: Any, max_new_tokens: int, **_: Any
    ) -> torch.Tensor:
        for number in range(max_new_tokens):
            self.before_token(number)
            chosen = torch.full((len(input_ids), 1), 7)
            if number == 0:
                chosen[0] = END
            input_ids = torch.cat([input_ids, chosen], 1)
            self.tokens += 1
            if stopping_criteria(input_ids, torch.zeros(0)).all():
                break
        return input_ids


def sampler(batch: int = 4) -> LocalSampler:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("gpt2"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    assert wrapped.eos_token_id == END
    return LocalSampler(wrapped, Sampling(max_tokens=MAX_TOKENS, batch=batch), 0)


REQUESTS = [SampleRequest(Prompt(i, "q", "a"), [5, 6], f"key {i}") for i in range(4)]


def test_a_rollout_is_yielded_before_the_others_are_finished() -> None:
    consumed = threading.Event()
    model = SteppedModel(lambda number: number == 1 and not consumed.wait(30) and pytest.fail())
    with closing(sampler().sample(model, REQUESTS)) as finished:
        position, rollout = next(finished)
        assert (position, rollout.ids, rollout.finished) == (0, [END], True)
        assert model.tokens == 1
        consumed.set()
        rest = dict(finished)
    assert sorted(rest) == [1, 2, 3]
    assert all(each.ids == [7] * MAX_TOKENS and not each.finished for each in rest.values())


def test_decoding_goes_on_while_a_rollout_is_verified() -> None:
    model = SteppedModel()
    with closing(sampler(batch=2).sample(model, REQUESTS)) as finished:
        next(finished)
        until = time.monotonic() + 30
        while model.tokens < 2 * MAX_TOKENS:  # nothing else is asked of the iterator
            assert time.monotonic() < until
            time.sleep(0.01)
        assert sorted(position for position, _ in finished) == [1, 2, 3]


def test_closing_the_iterator_ends_decoding() -> None:
    closed = threading.Event()
    model = SteppedModel(lambda number: number == 1 and closed.wait(30) and None)
    stream = sampler(batch=2).sample(model, REQUESTS)
    next(stream)
    threading.Timer(0.2, closed.set).start()
    stream.close()
    assert model.tokens == 2  # the token that was under way
    assert not [each for each in threading.enumerate() if each.name.startswith("capo-sampling")]


def test_an_error_of_the_model_reaches_the_caller() -> None:
    def fails(number: int) -> None:
        if number == 2:
            raise ValueError("out of memory, say")

    with closing(sampler().sample(SteppedModel(fails), REQUESTS)) as finished:
        assert next(finished)[0] == 0
        with pytest.raises(ValueError, match="out of memory"):
            next(finished)


def test_all_rollouts_come_in_the_order_of_their_requests() -> None:
    rollouts = sample_all(sampler(batch=3), SteppedModel(), REQUESTS)
    assert [each.request for each in rollouts] == REQUESTS
    assert [each.finished for each in rollouts] == [True, False, False, True]
