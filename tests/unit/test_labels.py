"""Labels of data sets as references."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_wire.labels import reference_of


@pytest.mark.parametrize(
    ("label", "reference"),
    [
        ("#### 42", "#### 42"),
        (" x ", " x "),
        ("12\\pi", "12\\pi"),
        (12, "12"),
        (-3, "-3"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (12.0, "12"),
        (0.5, "0.5"),
        (100.0, "100"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (-2.50, "-2.5"),
        (10**30, "1" + "0" * 30),
        (True, "True"),
        (False, "False"),
        ([6, -2], "6, -2"),
        ((1e-7,), "0.0000001"),
        ([["a"], "b"], "(a), b"),
        ([[1, 2], [3, 4]], "(1, 2), (3, 4)"),
        (["42"], "42"),
        (float("inf"), "\\infty"),
        (-math.inf, "-\\infty"),
        (Fraction(1, 3), "1/3"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.1"),
        (np.float64(1e22), "1" + "0" * 22),
        (np.float32(0.1), "0.1"),
        (np.int64(7), "7"),
        (np.bool_(True), "True"),
        (np.array([6.0, -2.0]), "6, -2"),
        (np.array(2.5), "2.5"),
        (torch.tensor(12.0), "12"),
        (torch.tensor([6, -2]), "6, -2"),
    ],
)
def test_a_label_is_read_as_what_it_is(label: Any, reference: str) -> None:
    assert reference_of(label) == reference


@pytest.mark.parametrize("label", [None, "", " \n", math.nan, np.float64("nan"), [], ()])
def test_a_label_without_an_answer_is_no_reference(label: Any) -> None:
    assert reference_of(label) is None


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"target": ["x"]}, "of type dict"),
        ({1, 2}, "of type set"),
        (b"12", "of type bytes"),
        (object(), "of type object"),
        ([1, None], "an item that is empty"),
        ([[]], "an item that is empty"),
        (1j, "of type complex"),
        ({"a": "x" * 500}, r"xxx\.\.\., of type dict"),
    ],
)
def test_a_label_of_another_kind_is_refused_by_name(label: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reference_of(label)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_json_number_is_read_back_as_itself(number: float) -> None:
    text = reference_of(json.loads(json.dumps(number)))
    assert text is not None and "e" not in text.lower()
    assert type(number)(text) == number
