"""Whatever way a judge writes its list: read as exactly that list, or refused; never a part of it."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from capo_service.core.verdicts import free_text

N_STEPS = 30
WORDS = (
    "{}",
    "Step {}",
    "step {}",
    "step_{}",
    "Step-{}",
    "#{}",
    "**{}**",
    "`{}`",
    "**Step {}**",
    '"{}"',
    "<step_{}>",
    "第{}步",
    "步骤{}",
    "{} (wrong sum)",
)
SEPARATORS = (
    ", ",
    ",",
    " ",
    "\n",
    "，",
    "、",
    "；",
    "; ",
    " and ",
    "和",
    "以及",
    ", and ",
    " & ",
    "\n\n",
    ",\n",
)
ENDS = ("", " ", ".", "。", "\n", " are wrong", " are wrong.", " is incorrect", "错误")
WRAPPED = ("{}", " {} ", "\n{}\n", "[{}]", "({})", "**{}**", "[ {} ]")
NOTHING = (
    "",
    " ",
    "\n",
    "none",
    "None.",
    "无",
    "N/A",
    "-",
    "[]",
    "**None**",
    "No steps are wrong",
    "no incorrect steps",
)
TAGGED = (
    "<incorrect_steps>{}</incorrect_steps>",
    "**<incorrect_steps>{}</incorrect_steps>**",
    "`<incorrect_steps>{}</incorrect_steps>`",
    "<INCORRECT_STEPS>{}</INCORRECT_STEPS>",
    "<incorrect steps>{}</incorrect steps>",
    "```\n<incorrect_steps>{}</incorrect_steps>\n```",
)
OBJECTS = ("{}", "```json\n{}\n```", "```\n{}\n```", "json\n{}", "**{}**")
BEHIND = (
    "",
    "\n",
    "\n\nDone.",
    "<|im_end|>",
    "</answer>",
    "<｜end▁of▁sentence｜>",
    "\n```",
    "</s>\n",
)
PREFIXES = (
    "",
    "Verdict: No\n",
    "Step 1: 12*8=95, which is wrong.\n\n",
    "The wrong steps are: ",
    "Final answer: ",
    "Let me check {x} and \\frac{1}{2}. ",
    "<think>Maybe <incorrect_steps>7</incorrect_steps>? No.</think>\n\n",
    'It could be {"incorrect_steps": [7]}.</think>',
    "[THINK]<incorrect_steps>7</incorrect_steps>[/THINK]",
    '<|channel|>analysis<|message|>{"incorrect_steps": [7]}<|end|><|start|>assistant<|channel|>final<|message|>',
    "结论：第1步有误。\n",
    "### Verdict\n\n",
    "1. The first step is right.\n2. The second is not.\n\n",
    "First: <incorrect_steps>7</incorrect_steps>. No, wait: ",
    "The student writes <incorrect_steps></incorrect_steps>, a trick.\n\n",
    'The student writes {"incorrect_steps": []}, a trick.\n\n',
)


@st.composite
def lists(draw: st.DrawFn) -> tuple[str, set[int]]:
    """A list between tags, and the steps that it names."""
    wrong = draw(st.lists(st.integers(0, N_STEPS - 1), max_size=6))
    if not wrong:
        return draw(st.sampled_from(NOTHING)), set()
    way = draw(st.sampled_from(["words", "mixed", "bullets", "numbers", "range"]))
    one = draw(st.sampled_from(WORDS))
    if way == "bullets":
        mark = draw(st.sampled_from(["- ", "* ", "• ", "+ "]))
        body = "\n" + "\n".join(mark + one.format(step) for step in wrong) + "\n"
    elif way == "numbers":
        dot = draw(st.sampled_from([". ", ") "]))
        body = "\n".join(f"{i}{dot}{one.format(step)}" for i, step in enumerate(wrong, 1))
    elif way == "range":
        first, last = min(wrong), max(wrong)
        body = f"{first}{draw(st.sampled_from(['-', '–', ' to ', ' through ', '..', '至', '~']))}{last}"
        wrong = list(range(first, last + 1))
    elif way == "mixed":
        body = "".join(
            draw(st.sampled_from(WORDS)).format(step)
            + (draw(st.sampled_from(SEPARATORS)) if i + 1 < len(wrong) else "")
            for i, step in enumerate(wrong)
        )
    else:
        separator = draw(st.sampled_from(SEPARATORS))
        body = separator.join(one.format(step) for step in wrong) + draw(st.sampled_from(ENDS))
    return draw(st.sampled_from(WRAPPED)).format(body), set(wrong)


@st.composite
def critiques(draw: st.DrawFn) -> tuple[str, set[int], int]:
    """A critique, the steps that it names, and the length of what comes before its verdict."""
    prefix, behind = draw(st.sampled_from(PREFIXES)), draw(st.sampled_from(BEHIND))
    if draw(st.booleans()):
        body, wrong = draw(lists())
        return prefix + draw(st.sampled_from(TAGGED)).format(body) + behind, wrong, len(prefix)
    wrong = draw(st.sets(st.integers(0, N_STEPS - 1), max_size=6))
    items = [draw(st.sampled_from([step, str(step), f"step {step}"])) for step in sorted(wrong)]
    analysis = draw(
        st.text(max_size=20)
        | st.sampled_from(
            [
                "<incorrect_steps>7</incorrect_steps>",
                '{"incorrect_steps": [7]}',
                "</think>",
                "<think>",
            ]
        )
    )
    fields = draw(st.permutations([("analysis", analysis), ("incorrect_steps", items)]))
    said = json.dumps(
        dict(fields), indent=draw(st.sampled_from([None, 2])), ensure_ascii=draw(st.booleans())
    )
    return prefix + draw(st.sampled_from(OBJECTS)).format(said) + behind, wrong, len(prefix)


@settings(max_examples=400, deadline=None)
@given(critiques(), st.data())
def test_a_verdict_is_read_whole_or_refused(
    case: tuple[str, set[int], int], data: st.DataObject
) -> None:
    text, wrong, chatter = case
    for truncated in (False, True):
        found = free_text.read(text, N_STEPS, truncated=truncated)
        assert found.wrong is None or found.wrong == wrong, (text, found)
    # Cut off anywhere behind the chatter, it is the same verdict or none.
    cut = text[: data.draw(st.integers(chatter, len(text)), label="cut")]
    found = free_text.read(cut, N_STEPS, truncated=True)
    assert found.wrong is None or found.wrong == wrong, (cut, found)


@given(
    st.lists(st.integers(0, N_STEPS - 1), min_size=1, max_size=6),
    st.sampled_from(WORDS),
    st.sampled_from(SEPARATORS),
    st.sampled_from(["", " ", ".", "\n"]),
    st.sampled_from(TAGGED),
)
def test_lists_in_one_way_of_writing_are_read(
    wrong: list[int], word: str, separator: str, end: str, tag: str
) -> None:
    """So that refusing everything would not do."""
    body = separator.join(word.format(step) for step in wrong) + end
    assert free_text.read(f"Verdict: No\n\n{tag.format(body)}", N_STEPS).wrong == set(wrong)
