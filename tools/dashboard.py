"""Write deploy/grafana/capo.json, the dashboard.

python tools/dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "capo.json"
BY = 'instance=~"$instance"'
WIDTH, HEIGHT = 24, 8

Query = tuple[str, str]  # PromQL, legend


def rate(name: str, by: str = "", more: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({name}{{{BY}{more}}}[$__rate_interval]))"


def share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, {rate(name + '_bucket', 'le')})"


# Row -> panels as (title, what to look for, unit, queries).
ROWS: dict[str, list[tuple[str, str, str, list[Query]]]] = {
    "Is it healthy?": [
        ("Ready", "1 for every replica that serves requests.", "none",
         [(f"capo_ready{{{BY}}}", "{{instance}}")]),
        ("Rollouts by status", "Should be 200 only. 502: no critique could be read.",
         "ops", [(rate("capo_rollouts_total", "status"), "{{status}}")]),
        ("Engine restarts", "Times that the engine was lost and came back.", "short",
         [(f"capo_engine_restarts_total{{{BY}}}", "{{instance}}")]),
        ("Memory and descriptors", "Level, once the judge is loaded.", "bytes",
         [(f"process_resident_memory_bytes{{{BY}}}", "{{instance}} memory"),
          (f"process_open_fds{{{BY}}}", "{{instance}} descriptors")]),
    ],
    "Is it the bottleneck?": [
        ("Waiting for a turn", "Seconds that rollouts wait before the judge looks at them.", "s",
         [(quantile(0.5, "capo_queue_seconds"), "median"),
          (quantile(0.95, "capo_queue_seconds"), "p95")]),
        ("Being judged", "Seconds from the turn to the vote.", "s",
         [(quantile(0.5, "capo_judge_seconds"), "median"),
          (quantile(0.95, "capo_judge_seconds"), "p95")]),
        ("Queue", "Tokens of waiting rollouts; what autoscaling looks at.", "short",
         [(f"capo_queued_tokens{{{BY}}}", "{{instance}} tokens"),
          (f"capo_running{{{BY}}}", "{{instance}} running"),
          (f"capo_accepted{{{BY}}}", "{{instance}} accepted")]),
        ("Event loop", "How late the service itself made it; above 20 ms is too much.", "s",
         [(quantile(0.99, "capo_loop_blocked_seconds"), "p99"),
          (f"capo_loop_blocked_longest_seconds{{{BY}}}", "{{instance}} longest")]),
        ("Refusals", "429: the queue is full, or a key's quota is used up.", "ops",
         [(rate("capo_requests_total", "status", ',status=~"4..|5..",status!="499"'),
           "{{status}}")]),
    ],
    "Is the judge degenerating?": [
        ("Critiques that can be read", "Near 1; a fall means the judge no longer keeps the form.",
         "percentunit",
         [(share(rate("capo_critiques_total", more=',valid="true"'), rate("capo_critiques_total")),
           "readable"),
          (share(rate("capo_critiques_cut_off_total"), rate("capo_critiques_total")),
           "cut off by max_tokens")]),
        ("Agreement between critiques", "0.5 is a coin's toss.", "percentunit",
         [(share(rate("capo_agreement_ratio_sum"), rate("capo_agreement_ratio_count")), "mean")]),
        ("Canaries", "Solutions of known worth that were judged rightly, in the last minutes "
         "(setting canary_seconds). Good near 0: it flags everything; bad near 0: nothing.",
         "percentunit", [(f"avg by (worth) (capo_canary_accuracy_ratio{{{BY}}})", "{{worth}}")]),
        ("Wrong steps", "What share of steps the vote calls wrong: should fall while a policy "
         "learns, neither to 0 nor to 1 at once.", "percentunit",
         [(share(rate("capo_steps_total", more=',verdict="wrong"'), rate("capo_steps_total")),
           "wrong")]),
    ],
    "Is the policy gaming it?": [
        ("Wrong answers without a wrong step", "A wrong answer has a wrong step somewhere. A rise "
         "together with rewards: the judge is being fooled.", "percentunit",
         [(share(rate("capo_rollouts_judged_total", more=',outcome="wrong",flagged="false"'),
                 rate("capo_rollouts_judged_total", more=',outcome="wrong"')), "unflagged")]),
        ("Right answers with a wrong step", "Luck, or a judge that is too strict.", "percentunit",
         [(share(rate("capo_rollouts_judged_total", more=',outcome="right",flagged="true"'),
                 rate("capo_rollouts_judged_total", more=',outcome="right"')), "flagged")]),
        ("Suspicious rollouts", "What looks like gaming, by reason (field suspicion).", "ops",
         [(rate("capo_suspicions_total", "reason"), "{{reason}}")]),
        ("Length of rollouts", "Steps or tokens that run off are a common way to please a judge.",
         "short",
         [(quantile(0.5, "capo_rollout_steps"), "steps, median"),
          (quantile(0.5, "capo_rollout_tokens"), "tokens, median")]),
    ],
    "What does it cost?": [
        ("Judge tokens", "Cached prompt tokens cost next to nothing.", "ops",
         [(rate("capo_judge_tokens_total", "kind"), "{{kind}}")]),
        ("Critiques run and saved", "Saved: could no longer change a vote.", "ops",
         [(rate("capo_critiques_total"), "run"), (rate("capo_critiques_saved_total"), "saved")]),
        ("Results judged before", "Answered from the cache.", "percentunit",
         [(share(rate("capo_result_cache_total", more=',result="hit"'),
                 rate("capo_result_cache_total", more=',result=~"hit|miss"')), "hits")]),
        ("Rollouts by key", "Who uses it.", "ops",
         [(rate("capo_rollouts_total", "key"), "{{key}}")]),
    ],
    "The engine": [
        ("vLLM requests", "Waiting ones mean that the GPU is full.", "short",
         [(f"vllm:num_requests_running{{{BY}}}", "{{instance}} running"),
          (f"vllm:num_requests_waiting{{{BY}}}", "{{instance}} waiting")]),
        ("KV cache", "Full: critiques are pushed out and start again.", "percentunit",
         [(f"vllm:kv_cache_usage_perc{{{BY}}}", "{{instance}}")]),
        ("Prefix cache", "Share of prompt tokens that were already there.", "percentunit",
         [(share(rate("vllm:prefix_cache_hits_total"), rate("vllm:prefix_cache_queries_total")),
           "hits")]),
    ],
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        )  # fmt: skip
        width = WIDTH // len(row)
        for column, panel in enumerate(row):
            place = {"x": column * width, "y": y + 1, "w": width, "h": HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(*panel)})
        y += 1 + HEIGHT
    source = {"type": "prometheus", "uid": "${source}"}
    instance = {
        "name": "instance", "type": "query", "datasource": source, "includeAll": True,
        "multi": True, "allValue": ".*", "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
        "query": {"query": "label_values(capo_ready, instance)", "refId": "instance"},
    }  # fmt: skip
    return {
        "uid": "capo-credit", "title": "capo-credit", "tags": ["capo"], "schemaVersion": 39,
        "timezone": "browser", "refresh": "15s", "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus"}, instance]
        },
        "panels": panels,
    }  # fmt: skip


def _panel(title: str, description: str, unit: str, queries: list[Query]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    bounds = {"min": 0, "max": 1} if unit == "percentunit" else {"min": 0}
    return {
        "type": "timeseries", "title": title, "description": description, "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, **bounds}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": source, "expr": expr, "legendFormat": legend}
            for i, (expr, legend) in enumerate(queries)
        ],
    }  # fmt: skip


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), "utf-8")
