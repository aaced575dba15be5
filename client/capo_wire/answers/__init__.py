"""Final answers: finding one in a text, and whether two are equal.

The service, the trainer and the adapters share these rules. They are in docs/outcome.md, with
examples that are run as tests. `compare` needs math-verify, the rest only the standard library.
"""

from capo_wire.answers.find import (
    UnfinishedThoughtError,
    final_answer,
    reference_answer,
    response_of,
)
from capo_wire.special_text import END_TOKENS

__all__ = [
    "END_TOKENS",
    "UnfinishedThoughtError",
    "final_answer",
    "reference_answer",
    "response_of",
]
