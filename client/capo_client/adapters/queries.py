"""A framework's sample as a rollout of the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from capo_client.adapters.samples import Sample
from capo_client.adapters.turns import chat_turn, policy_flags
from capo_wire.labels import reference_of
from capo_wire.token_offsets import decode_with_offsets

# Errors for data of a wrong type: a missing role, an id that is not a number or is out of range.
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)


class NoTokenizerError(ValueError):
    """A configuration error, which concerns every rollout with ids."""


@dataclass(frozen=True, slots=True)
class CreditQuery:
    """What is sent for a sample.

    Attributes:
        body: the rollout as JSON; None if there is no text to judge, or an error.
        flags: T flags, true for the policy's own ids; None without ids.
        outcome: r_v in [0, 1], if the data has it.
        error: why the sample cannot be sent.
    """

    body: dict[str, Any] | None = None
    flags: list[bool] | None = None
    outcome: float | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class QueryBuilder:
    """Makes queries of samples.

    Attributes:
        tokenizer: the policy's tokenizer; None if it is not available here.
        tokenizer_name: its name at the service; None if it is not served.
        needs_outcome: whether the reward scheme uses the outcome.
    """

    tokenizer: Any
    tokenizer_name: str | None
    needs_outcome: bool

    def build(self, position: int, sample: Sample) -> CreditQuery:
        """The query of one sample, whose id is its position.

        Raises:
            NoTokenizerError: ids cannot be sent without a tokenizer.
        """
        flags = outcome = None
        try:
            if sample.ids is not None:
                flags = policy_flags(sample.ids, sample.mask)
            outcome = outcome_of(sample.outcome)
            body = self._body(sample, flags, outcome)
        except NoTokenizerError:
            raise
        except ValueError as error:
            return CreditQuery(None, flags, outcome, error)
        except _UNREADABLE as error:
            reason = f"the rollout cannot be read: {type(error).__name__}: {error}"
            return CreditQuery(None, flags, outcome, ValueError(reason))
        return CreditQuery(body and body | {"id": str(position)}, flags, outcome)

    def _body(
        self, sample: Sample, flags: list[bool] | None, outcome: float | None
    ) -> dict[str, Any] | None:
        response = self._response(sample, flags)
        if not self._says_something(response):
            return None
        reference = reference_of(sample.reference)
        if reference is None and outcome is None and self.needs_outcome:
            raise ValueError(
                "a rollout has neither a reference answer nor an outcome: name the data's column "
                "that holds one, or set reward={'scheme': 'process_only'}"
            )
        return _prompt(sample) | {"reference": reference, "outcome": outcome} | response

    def _says_something(self, response: dict[str, Any]) -> bool:
        """Whether the policy wrote anything that is not blank."""
        if turns := response.get("response_turns"):
            own = (turn for turn in turns if turn["role"] == "assistant")
            return any(turn["content"].strip() or turn.get("tool_calls") for turn in own)
        if response.get("response_token_ids"):
            return True
        text, mask = response.get("response") or "", response.get("response_mask")
        if mask is None:
            return bool(text.strip())
        spans = response["token_offsets"]
        return any(own and text[a:b].strip() for own, (a, b) in zip(mask, spans, strict=True))

    def _response(self, sample: Sample, flags: list[bool] | None) -> dict[str, Any]:
        if sample.turns is not None:
            return {"response_turns": [chat_turn(turn) for turn in sample.turns]}
        if sample.ids is None or flags is None:
            return {"response": sample.text}
        ids = [int(token) for token in sample.ids]
        mask = {} if all(flags) else {"response_mask": [int(own) for own in flags]}
        if self.tokenizer_name is not None:
            return {"response_token_ids": ids, "tokenizer": self.tokenizer_name, **mask}
        if self.tokenizer is None:
            raise NoTokenizerError(
                "rollouts come as token ids: give the policy's tokenizer, or tokenizer_name if "
                "the service serves it"
            )
        text, spans = decode_with_offsets(self.tokenizer, ids)
        return {"response": text, "token_offsets": spans, **mask}


def outcome_of(value: Any) -> float | None:
    """r_v; None if the data has None or NaN.

    Raises:
        ValueError: it is not in [0, 1].
    """
    if value is None or value != value:
        return None
    outcome = float(value)
    if not 0 <= outcome <= 1:
        raise ValueError(f"the outcome is {outcome}, which is not in [0, 1]")
    return outcome


def _prompt(sample: Sample) -> dict[str, Any]:
    tools = {"tools": [dict(tool) for tool in sample.tools]} if sample.tools else {}
    if isinstance(sample.prompt, str):
        return {"question": sample.prompt, **tools}
    return {"messages": [chat_turn(turn) for turn in sample.prompt], **tools}
