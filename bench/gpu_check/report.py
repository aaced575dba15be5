"""The JSON of a check as Markdown, to paste into an issue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Parts = dict[str, dict[str, Any]]


def markdown(state: dict[str, Any]) -> str:
    return "\n".join(_lines(state)) + "\n"


def _lines(state: dict[str, Any]) -> Iterator[str]:
    settings, parts = state["settings"], state["parts"]
    yield f"# gpu-check: {settings['model']}"
    yield ""
    yield from _verdict(parts, state["order"])
    yield ""
    yield from _table(("", ""), _about(state))
    yield ""
    yield "## Checks"
    yield ""
    yield from _table(("", "check", "detail"), _checks(parts, state["order"]))
    yield ""
    yield from _measured(parts, settings["price_per_hour"])
    if notes := _notes(parts):
        yield "## Notes"
        yield ""
        yield from (f"- {note}: {', '.join(names)}" for note, names in notes.items())


def _notes(parts: Parts) -> dict[str, list[str]]:
    """Each note, and the parts that made it."""
    found: dict[str, list[str]] = {}
    for name, part in parts.items():
        for note in part.get("notes", ()):
            found.setdefault(note, []).append(name)
    return found


def _verdict(parts: Parts, order: Sequence[str]) -> Iterator[str]:
    checks = [each for part in parts.values() for each in part.get("checks", ())]
    failed = [each for each in checks if not each["ok"]]
    broken = [name for name in parts if parts[name]["status"] == "failed"]
    missing = [name for name in order if name not in parts]
    yield f"{len(checks)} checks, {len(failed)} failed; {len(parts)} of {len(order)} parts run."
    if broken:
        yield f"Parts that ended in an error: {', '.join(broken)}."
    if missing:
        yield f"Parts that were not run yet: {', '.join(missing)}. The same command continues."


def _about(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    device, settings, parts = state["device"], state["settings"], state["parts"]
    for gpu in device["gpus"]:
        yield "GPU", f"{gpu['name']}, {gpu['memory.total']}, driver {gpu['driver_version']}"
    if not device["gpus"]:
        yield "GPU", "none"
    yield "CPU", f"{device['cpu']}, {device['cores']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
    yield (
        "versions",
        f"{versions}, Python {device['python']}, commit {device['commit'] or 'unknown'}",
    )
    yield "engine arguments", ", ".join(settings["engine_args"]) or "none"
    ready = parts.get("readiness", {}).get("numbers", {})
    if limits := ready.get("engine_limits"):
        yield "limits of the service's engine", _limits(limits)
        text = f"{ready['context_length']} tokens; {ready['max_running']}; {ready['style']}"
        yield "context; max_running; default style", text
    if limits := parts.get("bare_engine", {}).get("numbers", {}).get("limits"):
        yield "limits of the bare engine", _limits(limits)
    if ready:
        yield "service ready after", f"{ready['ready_s']:.0f} s"


def _limits(limits: dict[str, Any]) -> str:
    ranks = f", {limits['ranks']} ranks" if limits.get("ranks", 1) > 1 else ""
    return (
        f"max_num_seqs {limits['max_num_seqs']}, max_num_batched_tokens "
        f"{limits['max_num_batched_tokens']}, KV cache {limits['kv_cache_tokens']} tokens in "
        f"blocks of {limits['block_size']}{ranks}"
    )


def _checks(parts: Parts, order: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for name in order:
        part = parts.get(name, {})
        for each in part.get("checks", ()):
            yield "ok" if each["ok"] else "**FAILED**", each["name"], each["detail"]
        if part.get("status") == "failed":
            yield "**ERROR**", f"part {name}", part["error"]


def _measured(parts: Parts, price: float | None) -> Iterator[str]:
    found = {name: part.get("numbers") or {} for name, part in parts.items()}
    for name, section in SECTIONS.items():
        if found.get(name):
            yield from section(found, price)
            yield ""


def _overhead(found: Parts, price: float | None) -> Iterator[str]:
    served, bare = found["throughput"], found["bare_engine"]
    yield "## Bare engine against service"
    yield ""
    yield (
        f"{served['rollouts']} {served['length']} rollouts, k = 4, full vote, the same prompts and "
        "seeds; median of 3 rounds each, one after the other. Generated tokens per second, "
        f"service / bare engine: **{bare['overhead_ratio']:.2f}**."
    )
    yield ""
    rows = [
        (
            name,
            f"{row['rollouts_per_s']:.3g}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['prompt_tokens_per_s']:,.0f}",
            *_price(row, price),
        )
        for name, row in (("vLLM's `LLM.generate`", bare), ("service", served))
    ]
    columns = ("", "rollouts/s", "generated tokens/s", "prompt tokens/s, cached or computed")
    yield from _table((*columns, *_price_column(price)), rows)


def _rows(title: str, first: str, name: str) -> Any:
    def section(found: Parts, price: float | None) -> Iterator[str]:
        yield f"## {title}"
        yield ""
        columns = (
            first,
            "rollouts",
            "rollouts/s",
            "generated tokens/s",
            "prompt tokens of a critique",
            "generated tokens of a rollout",
            "cached",
            "step F1",
        )
        rows = [
            (
                key,
                str(row["rollouts"]),
                f"{row['rollouts_per_s']:.3g}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['prompt_tokens']:,.0f}",
                f"{row['completion_tokens_per_rollout']:,.0f}",
                f"{row['cached']:.0%}",
                f"{row['step_f1']:.2f}",
                *_price(row, price),
            )
            for key, row in found[name].items()
        ]
        yield from _table((*columns, *_price_column(price)), rows)

    return section


def _price(row: dict[str, Any], price: float | None) -> tuple[str, ...]:
    return () if price is None else (f"{1000 * price / 3600 / row['rollouts_per_s']:.3g}",)


def _price_column(price: float | None) -> tuple[str, ...]:
    return () if price is None else (f"price of 1,000 rollouts at {price:g} an hour",)


def _latency(found: Parts, price: float | None) -> Iterator[str]:
    yield "## Latency of one rollout"
    yield ""
    rows = [
        (
            name,
            str(row["rollouts"]),
            f"{row['p50_ms']:,.0f}",
            f"{row['p99_ms']:,.0f}",
            f"{row['rollouts_per_s']:.3g}",
        )
        for name, row in found["latency"].items()
    ]
    yield "k = 4, early stopping. Few rollouts make p99 uncertain."
    yield ""
    yield from _table(("", "rollouts", "p50, ms", "p99, ms", "rollouts/s"), rows)


def _early(found: Parts, price: float | None) -> Iterator[str]:
    yield "## Early stopping"
    yield ""
    rows = [
        (
            name,
            str(row["rollouts"]),
            f"{row['same_verdicts']:.0%}",
            f"{row['token_ratio']:.0%}",
            f"{row['critique_ratio']:.0%}",
        )
        for name, row in found["early_stop"].items()
    ]
    columns = ("", "rollouts", "same verdicts", "tokens of the full vote", "critiques of it")
    yield "Critiques are skipped only while all of the engine's slots are busy; with fewer"
    yield "critiques than slots they are started, and ended early."
    yield ""
    yield from _table(columns, rows)


def _other(found: Parts, price: float | None) -> Iterator[str]:
    prefix = found["prefix"]
    yield "## Prefix cache and determinism"
    yield ""
    rows = [
        (
            f"cached, 4 critiques of one rollout of {prefix['prompt_tokens']:,.0f} prompt tokens",
            f"{prefix['cached_of_4_critiques']:.1%}",
        ),
        (
            f"cached, 4 critiques of each of {prefix['group']} rollouts of a question",
            f"{prefix['cached_of_group']:.1%}",
        ),
    ]
    if same := found.get("determinism"):
        rows += [
            (
                "equal critiques, same seeds, same batch",
                f"{same['equal_critiques_same_batch']:.0%}",
            ),
            ("equal verdicts on steps", f"{same['equal_verdicts_same_batch']:.0%}"),
            ("equal critiques, same seeds, alone", f"{same['equal_critiques_alone']:.0%}"),
        ]
    if thoughts := found.get("thinking"):
        for budget, row in thoughts.items():
            text = f"mean {row['mean']:.0f} tokens, {row['truncated']:.0%} reached the budget"
            rows.append((f"thoughts of at most {budget} tokens", text))
    yield from _table(("", ""), rows)


SECTIONS = {
    "bare_engine": _overhead,
    "styles": _rows("Styles", "rollouts, style", "styles"),
    "votes": _rows("Votes", "k", "votes"),
    "budgets": _rows("Thinking budgets", "budget, tokens", "budgets"),
    "latency": _latency,
    "early_stop": _early,
    "prefix": _other,
}


def _table(columns: Sequence[str], rows: Iterator[Any] | Sequence[Any]) -> Iterator[str]:
    yield _row(columns)
    yield _row(["---"] * len(columns))
    yield from (_row(row) for row in rows)


def _row(cells: Sequence[str]) -> str:
    safe = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(safe)} |"
