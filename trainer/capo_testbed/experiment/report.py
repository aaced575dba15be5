"""The report: results.json, figures and the generated parts of docs/experiment.md.

    python -m capo_testbed.experiment.report              # from finished runs
    python -m capo_testbed.experiment.report --figures    # from results.json: figures alone

A part of the page is generated where it stands between `<!-- table: NAME -->` (or `figure`,
`expected`) and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from capo_testbed.experiment import grids
from capo_testbed.experiment.collect import Results, collect, load, save, shapes_of
from capo_testbed.experiment.figures import draw_all
from capo_testbed.experiment.judges import FILE
from capo_testbed.experiment.reported import REPORTED, reported_settings
from capo_testbed.experiment.summary import summary_table
from capo_testbed.experiment.tables import (
    commits_table,
    expectations,
    missing_runs,
    mixed_commits,
    settings_table,
)
from capo_trainer.paths import testbed_folder

_PART = re.compile(r"(<!-- (table|figure|expected): ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def read_runs(out: Path, testbed: Path) -> Results:
    """Everything that the report is made from.

    Args:
        out: folder of the runs.
        testbed: of the models.
    """
    judges = out / FILE
    return Results(
        settings=collect(out, reported_settings()),
        shapes=shapes_of(testbed),
        judges=json.loads(judges.read_text()) if judges.exists() else [],
    )


def parts_of(results: Results, drawn: list[str]) -> dict[tuple[str, str], str]:
    """The generated parts of the page, by kind and name."""
    parts = {
        ("table", "summary"): summary_table(results),
        ("table", "compute-flops"): grids.flops_table(results),
        ("table", "compute-equal"): grids.equal_compute_table(results),
        ("table", "votes-gains"): grids.votes_table(results.settings),
        ("table", "votes-exact"): grids.exact_votes_table(),
        ("table", "errors-map"): grids.errors_table(results.settings),
        ("table", "errors-judges"): grids.judges_table(results),
        ("table", "commits"): commits_table(results.settings),
    }
    for question in REPORTED:
        name, title = question.name, question.title
        parts["table", name] = settings_table(question, results.settings)
        parts["expected", name] = expectations(question)
        parts["figure", name] = f"![{title}](experiment/{name}.png)" if name in drawn else ""
    return parts


def filled(page: str, parts: dict[tuple[str, str], str]) -> str:
    """The page with its generated parts; those of other names stay as they are."""

    def fill(found: re.Match[str]) -> str:
        start, kind, name, old, end = found.groups()
        content = parts.get((kind, name))
        if content is None:
            return f"{start}{old}{end}"
        return f"{start}{content}\n{end}" if content else f"{start}{end}"

    return _PART.sub(fill, page)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("build/experiment"),
    docs: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("docs"),
    figures: Annotated[
        bool, typer.Option("--figures", help="Only draw the figures, from results.json.")
    ] = False,
) -> None:
    """Summarise the experiment."""
    folder = docs / "experiment"
    if figures:
        drawn = draw_all(load(folder / "results.json"), folder)
        typer.echo(f"{folder}: {', '.join(f'{name}.png' for name in drawn) or 'nothing to draw'}")
        return
    results = read_runs(out, testbed_folder())
    if not results.settings:
        typer.echo(f"no finished run in {out}: run `make experiment`", err=True)
        raise typer.Exit(1)
    folder.mkdir(parents=True, exist_ok=True)
    save(results, folder / "results.json")
    parts = parts_of(results, draw_all(results, folder))
    page = docs / "experiment.md"
    if page.exists():
        page.write_text(filled(page.read_text(), parts))
    for (kind, name), content in parts.items():
        if kind == "table":
            typer.echo(f"{name}\n{content}\n")
    for line in mixed_commits(results.settings):
        typer.echo(f"warning: {line}", err=True)
    for line in missing_runs(results):
        typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
