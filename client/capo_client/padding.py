"""Token rewards of a batch as one padded array."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from capo_client.errors import CreditFailedError, InvalidResponseError
from capo_wire import Credited, Failed


def padded_token_rewards(
    results: Iterable[Credited | Failed],
    *,
    length: int | None = None,
    pad: float = 0.0,
    side: Literal["right", "left"] = "right",
    kind: Literal["numpy", "torch"] = "numpy",
    failed: Literal["raise", "mask"] = "raise",
) -> tuple[Any, Any]:
    """Rewards of shape (n, T), float32, and a boolean mask of the same shape, true at tokens.

    Args:
        results: the return value of `credit`.
        length: T. Default: that of the longest rollout.
        pad: the value of padding.
        side: the side of padding.
        kind: `numpy` or `torch`; imported only when it is used.
        failed: `raise` for rollouts without credit, or `mask` them: a row of padding.

    Raises:
        CreditFailedError: a rollout was not credited, and `failed` is `raise`.
        InvalidResponseError: a result has no token rewards.
        ValueError: a rollout is longer than `length`.
        ModuleNotFoundError: `kind` is not installed.
    """
    rows: list[list[float]] = []
    errors: list[Failed] = []
    for result in results:
        if isinstance(result, Failed):
            errors.append(result)
            rows.append([])
        elif result.token_rewards is None:
            raise InvalidResponseError(
                f"result {result.id!r} has no token_rewards: send response_token_ids or "
                "token_offsets, and leave token_rewards in include"
            )
        else:
            rows.append(result.token_rewards)
    if errors and failed == "raise":
        raise CreditFailedError(errors)
    longest = max(map(len, rows), default=0)
    size = longest if length is None else length
    if longest > size:
        raise ValueError(f"a rollout has {longest} tokens, more than length = {size}")
    values, mask = [], []
    for row in rows:
        gap = size - len(row)
        left, right = (0, gap) if side == "right" else (gap, 0)
        values.append([pad] * left + row + [pad] * right)
        mask.append([False] * left + [True] * len(row) + [False] * right)
    shape = (len(rows), size)
    if kind == "torch":
        import torch

        return (
            torch.tensor(values, dtype=torch.float32).reshape(shape),
            torch.tensor(mask, dtype=torch.bool).reshape(shape),
        )
    try:
        import numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"padded_token_rewards returns numpy arrays ({error}): pip install numpy, or use "
            "kind='torch'"
        ) from None

    return (
        numpy.array(values, dtype=numpy.float32).reshape(shape),
        numpy.array(mask, dtype=bool).reshape(shape),
    )
