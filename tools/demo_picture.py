"""Write docs/demo.svg: two of the rollouts of `capo demo`, as a running service credits them.

capo serve demo &
python tools/demo_picture.py
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from capo_client import CreditClient
from capo_client.cli import render
from capo_client.cli.demo import load_examples

OUT = Path(__file__).resolve().parent.parent / "docs" / "demo.svg"
SHOWN = ("misread", "lucky")


def main() -> None:
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    with CreditClient() as client:
        info = client.info()
        examples = [each for each in load_examples(info.model) if each.id in SHOWN]
        batch = client.credit([each.rollout(info.tokenizers) for each in examples])
    for example, result in zip(examples, batch.raise_for_errors(), strict=True):
        console.print(
            render.panel(
                example.question, example.response, result, (-1.0, 2.0), example.known_wrong
            )
        )
    # Web fonts would need a download; the viewer's monospace font is used.
    form = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    OUT.write_text(console.export_svg(title="capo demo", code_format=form), "utf-8")


if __name__ == "__main__":
    main()
