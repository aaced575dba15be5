"""Where a final answer stands in a text: the same for the service and for the trainer."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAIL_CHARACTERS = 4000  # a final answer stands at the end; the rest need not be searched
# Where a final answer is marked as such; math-verify finds \boxed{} by itself.
_MARK = re.compile(r"####[ \t]*|\\boxed\b|^[ \t]*(?:A|(?:Final )?Answer):[ \t]*", re.M | re.I)


def answer_part(text: str) -> str:
    """What the last of `####` (GSM8K), `\\boxed{}` and `Answer:` marks, or what comes last."""
    tail = text[-_TAIL_CHARACTERS:]
    marks = list(_MARK.finditer(tail))
    if not marks or marks[-1][0].startswith("\\"):
        return tail
    answer = tail[marks[-1].end() :].partition("\n")[0]
    return answer if answer.strip() else tail


def as_maths(text: str) -> str:
    """Short bare answers (`x^2 + 1`, `1/2`) are maths, though no delimiter says so."""
    bare = text.strip()
    if len(bare) <= 100 and "\n" not in bare and not re.search(r"[$\\]|[A-Za-z]{2}", bare):
        return f"${bare}$"
    return text


# Special tokens that frameworks leave at the end of a decoded response.
END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<eos>")


def response_of(query: str, prompt: str, end_tokens: Sequence[str] = END_TOKENS) -> str:
    """What the policy wrote, of a query that is prompt and response, decoded together.

    Raises:
        ValueError: the query does not begin with the prompt.
    """
    if not query.startswith(prompt):
        raise ValueError(
            "a query does not begin with its prompt, so where its response begins is not known: "
            "are prompts cut to fit the policy's context?"
        )
    response = query[len(prompt) :].rstrip()
    while ended := next((end for end in end_tokens if end and response.endswith(end)), None):
        response = response[: -len(ended)].rstrip()
    return response
