"""Write the Helm chart's values.schema.json and README.md.

From values.yaml, the settings of the service, and chart_head.md.

python tools/chart.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from capo_service.settings import Settings

CHART = Path(__file__).resolve().parent.parent / "deploy" / "helm" / "capo"
# Maps that Kubernetes validates.
FREE = {
    "resources.requests", "resources.limits", "service.annotations", "ingress.annotations",
    "serviceAccount.annotations", "strategy", "monitoring.serviceMonitor.labels",
    "monitoring.prometheusRule.labels", "monitoring.dashboard.labels", "nodeSelector", "affinity",
    "podAnnotations", "podLabels",
}  # fmt: skip
ENUMS = {
    "autoscaling.kind": ["none", "hpa", "keda"],
    "image.pullPolicy": ["Always", "IfNotPresent", "Never"],
    "service.type": ["ClusterIP", "NodePort", "LoadBalancer"],
}
PATTERNS = {"image.digest": "^(sha256:[0-9a-f]{64})?$"}
# Settings that the chart derives from other values, and secrets, which values must not hold.
NOT_IN_CONFIG = {
    "host", "port", "template", "api_keys", "api_keys_file", "tls_cert", "tls_key",
    "tls_client_ca", "upstream_api_key", "nonce_secret",
}  # fmt: skip

HEAD = Path(__file__).with_name("chart_head.md")


def load() -> tuple[dict[str, Any], dict[str, str]]:
    """The values, and the comment above each by its dotted path."""
    text = (CHART / "values.yaml").read_text("utf-8")
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    block: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            block.append(stripped.removeprefix("#").strip())
            continue
        if match := re.match(r"^( *)(?!-)([\w.-]+):", line):
            indent = len(match[1])
            path = [*[p for p in path if p[0] < indent], (indent, match[2])]
            comments[".".join(name for _, name in path)] = " ".join(block)
        block = []
    values: dict[str, Any] = yaml.safe_load(text)
    return values, comments


def schema() -> str:
    """The text of values.schema.json."""
    values, comments = load()
    whole = _schema(values, "", comments)
    whole["properties"]["config"] = _config()
    whole["properties"]["global"] = {"type": "object"}
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", **whole}
    return json.dumps(whole, indent=2) + "\n"


def _schema(value: Any, path: str, comments: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if comments.get(path):
        found["description"] = comments[path]
    if path in ENUMS:
        return {**found, "enum": ENUMS[path]}
    match value:
        case bool():
            return {**found, "type": "boolean"}
        case int():
            least = 0 if path.startswith(("replicaCount", "preStop", "gpu.count")) else 1
            return {**found, "type": "integer", "minimum": least}
        case str():
            pattern = {"pattern": PATTERNS[path]} if path in PATTERNS else {}
            return {**found, "type": "string", **pattern}
        case list():
            return {**found, "type": "array"}
        case _ if path in FREE:
            return {**found, "type": "object"}
    properties = {
        name: _schema(inner, f"{path}.{name}".lstrip("."), comments)
        for name, inner in value.items()
    }
    return {
        **found, "type": "object", "additionalProperties": False, "properties": properties
    }  # fmt: skip


def _config() -> dict[str, Any]:
    settings = Settings.model_json_schema()
    kept = {n: p for n, p in settings["properties"].items() if n not in NOT_IN_CONFIG}
    for entry in kept.values():
        entry.pop("title", None)
        entry.pop("default", None)
    return {
        "type": "object",
        "description": "Settings of `capo serve`; see docs/settings.md.",
        "additionalProperties": False,
        "properties": kept,
    }


def readme() -> str:
    """The text of README.md."""
    values, comments = load()
    return HEAD.read_text("utf-8") + "".join(
        f"| `{path}` | {'' if value is None else f'`{json.dumps(value)}`'} | {comments[path]} |\n"
        for path, value in _leaves(values, "")
    )


def _leaves(value: dict[str, Any], path: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, inner in value.items():
        below = f"{path}.{name}".lstrip(".")
        if isinstance(inner, dict) and inner and below not in FREE | {"config"}:
            rows += [(below, None), *_leaves(inner, below)]
        else:
            rows.append((below, inner))
    return rows


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(schema(), "utf-8")
    (CHART / "README.md").write_text(readme(), "utf-8")
