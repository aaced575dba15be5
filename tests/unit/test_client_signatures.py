"""Both clients take the same arguments, and those are the wire's."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

import capo_wire as wire
from capo_client import (
    AsyncCreditClient,
    CreditClient,
    InvalidRequestError,
    UnknownOptionError,
)
from capo_client._options import CreditOptionArgs
from capo_client.adapters.openrlhf import make_reward_func
from capo_client.adapters.scoring import Scorer

BOTH = sorted(
    name
    for name in vars(CreditClient)
    if not name.startswith("_") and callable(getattr(CreditClient, name))
)
ROLLOUTS = [{"question": "q", "response": "a", "outcome": 1}]


def parameters(function: Any) -> list[tuple[str, Any, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default, each.annotation) for each in found]


@pytest.mark.parametrize("name", ["__init__", *BOTH])
def test_both_clients_have_the_same_parameters(name: str) -> None:
    asynchronous = getattr(AsyncCreditClient, "aclose" if name == "close" else name)
    assert parameters(getattr(CreditClient, name)) == parameters(asynchronous)


def test_options_are_those_of_the_wire() -> None:
    assert CreditOptionArgs.__total__ is False
    expected = wire.CreditOptions.model_fields.keys() - {"deadline_ms"}  # the clients' `deadline`
    assert get_type_hints(CreditOptionArgs).keys() == expected


@pytest.mark.parametrize(
    "function",
    [
        AsyncCreditClient.credit,
        AsyncCreditClient.credit_stream,
        AsyncCreditClient.session,
        CreditClient.credit,
        CreditClient.credit_stream,
        Scorer.__init__,
        make_reward_func,
    ],
)
def test_options_are_typed(function: Any) -> None:
    [options] = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.kind is each.VAR_KEYWORD
    ]
    assert "Any" not in str(options.annotation) and "Args]" in str(options.annotation)


async def test_a_misspelt_option_is_a_type_error_before_anything_is_sent() -> None:
    plain, client = CreditClient("http://127.0.0.1:9"), AsyncCreditClient("http://127.0.0.1:9")
    calls: list[Any] = [
        lambda: plain.credit(ROLLOUTS, vooting={"n": 2}),  # type: ignore[call-arg]
        lambda: plain.credit_stream(ROLLOUTS, vooting={"n": 2}),  # type: ignore[call-arg]
        lambda: client.credit_stream(ROLLOUTS, vooting={"n": 2}),  # type: ignore[call-arg]
        lambda: client.session(vooting={"n": 2}),  # type: ignore[call-arg]
    ]
    for call in calls:
        with pytest.raises(TypeError, match="'vooting': did you mean 'voting'") as caught:
            call()
        assert isinstance(caught.value, UnknownOptionError)
        assert isinstance(caught.value, InvalidRequestError), "as before it was a TypeError"
        assert caught.value.problem.field == "vooting"
    with pytest.raises(TypeError, match="did you mean 'deadline'"):
        plain.credit(ROLLOUTS, deadline_ms=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="choose from voting, reward"):
        await client.credit(ROLLOUTS, colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="api_keys"):
        CreditClient("http://127.0.0.1:9", api_keys="x")  # type: ignore[call-arg]
    plain.close()
    await client.aclose()
