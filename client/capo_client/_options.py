"""Options of a call: declared once for clients and adapters, and checked before any request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypedDict

from pydantic import ValidationError

import capo_wire as wire
from capo_client._problems import invalid_request
from capo_client.errors import InvalidRequestError, UnknownOptionError
from capo_wire.validation import first_error


class CreditOptionArgs(TypedDict, total=False):
    """Options for every rollout of a call. None or omitted: the default of the HTTP API.

    Attributes:
        voting: how critiques are sampled and voted, such as `{"n": 8}`.
        reward: the scheme and its weights.
        segment: how a response is cut into steps.
        show_reference: whether the judge sees `reference`.
        max_observation_tokens: how much of each observation the judge sees.
        include: what to return in addition to steps.
        priority: the scheduling class.
        run: the name of the training run, by which the live view can be filtered.
    """

    voting: wire.Voting | Mapping[str, Any] | None
    reward: wire.Reward | Mapping[str, Any] | None
    segment: wire.Segment | Mapping[str, Any] | None
    show_reference: bool | None
    max_observation_tokens: int | None
    include: Sequence[wire.Include] | None
    priority: wire.Priority | None
    run: str | None


_NAMES = tuple(CreditOptionArgs.__annotations__)


def make_options(
    options: Mapping[str, Any], other_keywords: Iterable[str] = ("deadline",)
) -> dict[str, Any]:
    """Check the options of a call and return those that were given, as JSON.

    Args:
        options: options by name.
        other_keywords: names of the function's other keyword arguments, for suggestions.

    Raises:
        UnknownOptionError: there is no such option.
        InvalidRequestError: an option has a wrong value.
    """
    for name in options:
        if name not in _NAMES:
            close = get_close_matches(name, (*_NAMES, *other_keywords), 1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(_NAMES)}"
            detail = f"unexpected keyword argument {name!r}: {hint}"
            raise UnknownOptionError(invalid_request(detail, name))
    given = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
        if value is not None
    }
    try:
        checked = wire.CreditOptions.model_validate(given)
    except ValidationError as error:
        field, message = first_error(error)
        raise InvalidRequestError(invalid_request(message, field)) from None
    return checked.model_dump(mode="json", include=set(given), exclude_unset=True)
