"""What the guides state, held to the code: alert thresholds, quoted messages, sample sizes."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest
import yaml

from capo_client.cli.evaluate.formats import read
from capo_service.pipeline.canary import load_canaries

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def rules() -> dict[str, dict[str, str]]:
    """The alerts of Prometheus by name."""
    text = (ROOT / "deploy" / "prometheus" / "capo.rules.yml").read_text("utf-8")
    return {
        rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]
    }


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of all tables."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def numbers(text: str) -> set[float]:
    return {float(each.replace(",", "")) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


def thresholds(rule: dict[str, str]) -> list[float]:
    return [float(each) for each in re.findall(r"[<>] ([\d.]+)", rule["expr"])]


def test_the_monitoring_page_lists_every_alert_with_its_thresholds_and_times() -> None:
    listed = {cells[0]: cells[1] for cells in rows(page("monitoring.md")) if cells[0] in rules()}
    assert listed.keys() == rules().keys()
    for name, rule in rules().items():
        assert set(thresholds(rule)) <= numbers(listed[name]), name
        if "for" in rule:
            amount, unit = re.fullmatch(r"(\d+)([mh])", rule["for"]).groups()  # type: ignore[union-attr]
            assert f"for {amount} {'min' if unit == 'm' else 'h'}" in listed[name], name


def test_the_advice_for_trainers_uses_the_thresholds_of_the_alerts() -> None:
    advised = {cells[4]: cells[3] for cells in rows(page("monitoring.md")) if len(cells) == 5}
    advised = {alert: advice for alert, advice in advised.items() if alert in rules()}
    assert len(advised) == 7
    advised.pop("CapoBottleneck")  # the trainer's wait and the queue's time are different values
    for alert, advice in advised.items():
        assert thresholds(rules()[alert])[0] in numbers(advice), alert


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's formula."""
    z = 1.96
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def test_the_intervals_of_the_labelling_page_are_those_of_the_formula() -> None:
    table = [cells for cells in rows(page("labelling.md")) if cells[0].isdigit()]
    assert [int(cells[0]) for cells in table] == [10, 25, 50, 100, 200, 400]
    for count, *intervals in table:
        computed = [wilson(share, int(count)) for share in (0.6, 0.8, 0.9)]
        assert intervals == [f"{low:.2f} to {high:.2f}" for low, high in computed], count


def test_the_formats_of_the_labelling_page_are_read_as_it_says(tmp_path: Path) -> None:
    lines = re.findall(r"`(\{\"(?:question|problem)\".*?\})`", page("labelling.md"))
    assert len(lines) == 3
    expected = [(False, True), (False, False), (False, True)]
    for number, (line, wrong) in enumerate(zip(lines, expected, strict=True)):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(line + "\n")
        _, examples, left_out = read(file)
        assert [example.wrong for example in examples] == [wrong] and not left_out


def test_labels_of_the_page_are_probes_and_other_fields_are_refused(tmp_path: Path) -> None:
    lines = re.findall(r"`(\{\"question\".*?\})`", page("labelling.md"))
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(lines))
    assert [probe.worth for probe in load_canaries(file)] == ["bad", "good"]
    file.write_text("\n".join(lines).replace('"question"', '"id": 1, "question"'))
    with pytest.raises(ValueError, match="line 1"):
        load_canaries(file)


def messages() -> list[str]:
    """Every string of the packages, `...` for its values."""
    found = []
    for path in [*ROOT.glob("client/**/*.py"), *ROOT.glob("service/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    each.value if isinstance(each, ast.Constant) else "..." for each in node.values
                )
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdr.\w]", "...", node.value))
    return found


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    known = messages()
    quoted = [
        message
        for cells in rows(page("troubleshooting.md"))
        for message in re.findall(r"`([^`]+)`", cells[0])
        if " " in message.strip() and "--engine symbolic" not in message
    ]
    assert len(quoted) > 25
    # Those of vLLM are looked for in vLLM's own text, where it is installed.
    theirs = {"Free memory on device", "No available memory for the cache blocks."}
    for message in quoted:
        if message in theirs:
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in message.split("...")), re.S)
        assert any(pattern.search(each) for each in known), message


def anchors(text: str) -> set[str]:
    """The anchors that mkdocs makes of headings, and those that are written out."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = set(re.findall(r'id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        words = re.sub(r"[^\w\s-]", "", words).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", words))
    return found


def test_links_to_a_section_reach_a_heading() -> None:
    docs = ROOT / "docs"
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs.glob("*.md")]:
        text = path.read_text("utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", text):
            file = path.parent / target if target else path
            if file.suffix == ".md" and file.exists():  # files that are missing: test_docs
                assert anchor in anchors(file.read_text("utf-8")), f"{path.name}: {target}#{anchor}"
