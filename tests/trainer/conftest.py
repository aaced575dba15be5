"""What tests that train share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """One thread, and no state of accelerate for the next test."""
    torch.set_num_threads(1)
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
