"""Write docs/wire.md from the models of the wire, docs/openapi.json from the service's routes, and
the table of settings in docs/operations.md.

python tools/docs.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import capo_wire as wire
from capo_service.api.app import create_app
from capo_service.api.problems import TYPES
from capo_service.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from kit_scripted import ScriptedEngine  # a test double, which no user needs

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->"

HEAD = """\
# The wire

<!-- Written by `python tools/docs.py` from client/capo_wire; a test holds it so. -->

`POST /credit` takes a `CreditRequest` and answers with a `CreditResponse`, or, with
`Accept: application/x-ndjson`, with one result a line as each is finished and a `CreditSummary` as
the last line. `GET /openapi.json` says the same to machines.

- Positions count Unicode code points of `response`, as Python's `str` does; ends are exclusive.
- Unknown fields of a request are refused by name. Readers of responses must ignore what they do
  not know.
- This is version 1 (`wire` of `GET /info`). Within a version fields are only added to responses,
  and optional ones to requests; client and service of its first day are tested with today's.
- A body may be compressed with gzip (`Content-Encoding: gzip`; the limit of bytes holds for what it
  decompresses to). Other encodings are refused with 415.
- A bad rollout is answered by an error in its place, and the others are credited. A bad envelope,
  or a service that could credit nothing for now, is answered by a problem (RFC 9457).
- Every token belongs to exactly one step: the one that holds its first non-blank character. A token
  without one (blank, or special, such as the end of the text) belongs to the step of the token
  before it, or to the first step. Nothing is ever tokenized again.
- `wrong` is `penalty >= 0.5`; only voting `average` knows penalties between 0 and 1.
- With `early_stop`, critiques that can no longer change any penalty are ended, and where the judge
  is busy, critiques begin in waves, so that some never begin; `votes.valid` and
  `usage.critiques_run` tell how many ran to their end, `usage.completion_tokens` counts the tokens
  of the others too (where the engine tells them).
- `suspicion` tells what looks like gaming a judge; see [reliability](reliability.md). Where the
  operator has set that it counts as wrong, `penalty` is 1 whatever the votes say.
"""


def wire_md() -> str:
    parts = [HEAD]
    for title, models in (
        ("Request", (wire.CreditRequest, wire.Rollout, wire.ChatTurn, wire.TextPart, wire.Voting,
                     wire.Reward, wire.Segment)),
        ("Response", (wire.CreditResponse, wire.CreditSummary, wire.Credited, wire.Failed,
                      wire.Outcome, wire.Step, wire.Votes, wire.Critique, wire.Usage,
                      wire.Suspicion, wire.Timing, wire.Problem, wire.Info)),
        ("Beside it, for the inspector", (wire.TokensRequest, wire.Tokens, wire.Live,
                                          wire.LiveSample, wire.RecentRollout)),
    ):  # fmt: skip
        parts.append(f"\n## {title}\n")
        parts += [table(model) for model in models]
    parts.append("\n## Problems\n\n`type` is `urn:capo:problem:` and one of these names.\n\n")
    parts.append("| name | status | title |\n|---|---|---|\n")
    parts += [f"| `{name}` | {status} | {title} |\n" for name, (status, title) in TYPES.items()]
    return "".join(parts)


def table(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    rows = [f"\n### {model.__name__}\n\n{' '.join((model.__doc__ or '').split())}\n\n"]
    rows.append("| field | type | default | |\n|---|---|---|---|\n")
    for name, field in schema["properties"].items():
        default = "required" if name in required else f"`{show(field.get('default'))}`"
        if "default" not in field and name not in required:
            default = ""
        note = " ".join(field.get("description", "").split())
        rows.append(f"| `{name}` | {kind(field)} | {default} | {note} |\n")
    return "".join(rows)


def show(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "all defaults"
    return json.dumps(value)


def kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"`{field['$ref'].rsplit('/', 1)[1]}`"
    if "anyOf" in field or "oneOf" in field:
        return " or ".join(kind(part) for part in field.get("anyOf") or field["oneOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        if "prefixItems" in field:
            return "[" + ", ".join(kind(part) for part in field["prefixItems"]) + "]"
        return f"list of {kind(field['items'])}"
    bounds = [
        f"{sign} {number(field[key])}"
        for key, sign in (
            ("minimum", ">="), ("exclusiveMinimum", ">"),
            ("maximum", "<="), ("exclusiveMaximum", "<"),
        )
        if key in field
    ]  # fmt: skip
    return " ".join([str(field.get("type", "any")), *bounds])


def number(value: float) -> str:
    """Whole numbers in full: 2**53, and not 9.00719925474099e+15."""
    return str(int(value)) if float(value).is_integer() else f"{value:.15g}"


def operations_md() -> str:
    """docs/operations.md with its table of settings made anew."""
    text = (DOCS / "operations.md").read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    rows = ["| setting | default | |\n|---|---|---|\n"]
    for name, field in Settings.model_fields.items():
        # What a default depends on is the settings before it; here they have their defaults too.
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, bool):
            default = json.dumps(default)  # as TOML and JSON have it
        shown = "" if default is None else f"`{default}`"
        rows.append(f"| `{name}` | {shown} | {field.description or ''} |\n")
    return before + BEGIN + "".join(rows) + END + after


def openapi_json() -> str:
    """The interface for client generators: what `GET /openapi.json` answers."""
    engine = ScriptedEngine(lambda prompt, sampling: "")
    description = create_app(Settings(), engine).openapi()
    return json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DOCS / "wire.md").write_text(wire_md(), "utf-8")
    (DOCS / "operations.md").write_text(operations_md(), "utf-8")
    (DOCS / "openapi.json").write_text(openapi_json(), "utf-8")
