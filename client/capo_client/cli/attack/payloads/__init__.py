"""Texts that a policy might write to deceive its judge, by family.

Each payload is put after, before or into a solution that has a known error, or stands alone in its
place; see `corpus`. Those of the family `observations` stand between the turns of an agent. Sources: chat templates of public models; "One Token to Fool LLM-as-a-Judge"
(arXiv 2507.08794) for the master keys; prompt injection as OWASP describes it (LLM01:2025).
"""

from __future__ import annotations

from collections.abc import Sequence

from capo_client.cli.attack.payloads.disguise import ENCODED, HOMOGLYPHS, INVISIBLE, RIGHT_TO_LEFT
from capo_client.cli.attack.payloads.extremes import EMPTY_STEPS, LONG, REPEATED
from capo_client.cli.attack.payloads.heads import FORGED_HEADS
from capo_client.cli.attack.payloads.imitation import (
    CONTROL_TOKENS,
    FORGED_TAGS,
    FORGED_VERDICTS,
    PROMPT_QUOTES,
    RENUMBERED,
)
from capo_client.cli.attack.payloads.observations import OBSERVATIONS, HostileTurn
from capo_client.cli.attack.payloads.persuasion import (
    AUTHORITY,
    HARMLESS,
    INSTRUCTIONS,
    MASTER_KEYS,
    REFERENCE_LEAKS,
)

__all__ = [
    "ALONE",
    "AUTHORITY",
    "CONTROL_TOKENS",
    "EMPTY_STEPS",
    "ENCODED",
    "FAMILIES",
    "FORGED_HEADS",
    "FORGED_TAGS",
    "FORGED_VERDICTS",
    "HARMLESS",
    "HOMOGLYPHS",
    "INSTRUCTIONS",
    "INVISIBLE",
    "LONG",
    "MASTER_KEYS",
    "OBSERVATIONS",
    "PROMPT_QUOTES",
    "REFERENCE_LEAKS",
    "RENUMBERED",
    "REPEATED",
    "RIGHT_TO_LEFT",
]

# Family -> payloads. Those in ALONE stand in place of a solution, the others with one.
FAMILIES: dict[str, Sequence[str | HostileTurn]] = {
    "harmless": HARMLESS,
    "control_tokens": CONTROL_TOKENS,
    "forged_tags": FORGED_TAGS,
    "forged_heads": FORGED_HEADS,
    "forged_verdicts": FORGED_VERDICTS,
    "instructions": INSTRUCTIONS,
    "master_keys": MASTER_KEYS,
    "encoded": ENCODED,
    "invisible": INVISIBLE,
    "homoglyphs": HOMOGLYPHS,
    "right_to_left": RIGHT_TO_LEFT,
    "long": LONG,
    "repeated": REPEATED,
    "prompt_quotes": PROMPT_QUOTES,
    "empty_steps": EMPTY_STEPS,
    "renumbered": RENUMBERED,
    "reference_leaks": REFERENCE_LEAKS,
    "authority": AUTHORITY,
    "observations": OBSERVATIONS,
}
ALONE = frozenset({"master_keys"})
