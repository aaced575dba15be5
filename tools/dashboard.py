"""Write the Grafana dashboard, deploy/grafana/capo.json.

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


# Row -> panels as (title, description, unit, queries).
ROWS: dict[str, list[tuple[str, str, str, list[Query]]]] = {
    "Is it healthy?": [
        ("Ready", "Should be 1 for every replica.", "none",
         [(f"capo_ready{{{BY}}}", "{{instance}}")]),
        ("Rollouts by status", "Should be 200 only. 502: no critique could be parsed.",
         "ops", [(rate("capo_rollouts_total", "status"), "{{status}}")]),
        ("Engine restarts", "Restarts after a crash or a missed heartbeat.", "short",
         [(f"capo_engine_restarts_total{{{BY}}}", "{{instance}}")]),
        ("Memory and file descriptors", "Should be flat once the judge is loaded.", "bytes",
         [(f"process_resident_memory_bytes{{{BY}}}", "{{instance}} memory"),
          (f"process_open_fds{{{BY}}}", "{{instance}} descriptors")]),
    ],
    "Is it the bottleneck?": [
        ("Queue time", "Seconds from arrival until a rollout is scheduled.", "s",
         [(quantile(0.5, "capo_queue_seconds"), "median"),
          (quantile(0.95, "capo_queue_seconds"), "p95")]),
        ("Judge time", "Seconds from scheduling to the vote.", "s",
         [(quantile(0.5, "capo_judge_seconds"), "median"),
          (quantile(0.95, "capo_judge_seconds"), "p95")]),
        ("Queue", "Tokens of queued rollouts (autoscaling uses these), and numbers of rollouts.",
         "short",
         [(f"capo_queued_tokens{{{BY}}}", "{{instance}} tokens"),
          (f"capo_running{{{BY}}}", "{{instance}} running"),
          (f"capo_accepted{{{BY}}}", "{{instance}} accepted")]),
        ("Event-loop lag", "Lag caused by the service itself; should stay below 20 ms.", "s",
         [(quantile(0.99, "capo_loop_blocked_seconds"), "p99"),
          (f"capo_loop_blocked_longest_seconds{{{BY}}}", "{{instance}} longest")]),
        ("Rejected and failed requests", "429: the queue is full, or a key's quota is used up.",
         "ops",
         [(rate("capo_requests_total", "status", ',status=~"4..|5..",status!="499"'),
           "{{status}}")]),
    ],
    "Is the judge degrading?": [
        ("Readable critiques", "Should be near 1. A drop means that the judge no longer follows "
         "the output format.", "percentunit",
         [(share(rate("capo_critiques_total", more=',valid="true"'), rate("capo_critiques_total")),
           "readable"),
          (share(rate("capo_critiques_cut_off_total"), rate("capo_critiques_total")),
           "cut off by max_tokens")]),
        ("Agreement between critiques", "0.5 is chance level.", "percentunit",
         [(share(rate("capo_agreement_ratio_sum"), rate("capo_agreement_ratio_count")), "mean")]),
        ("Accuracy on known-answer probes", "Share of recent probes that were judged correctly "
         "(setting canary_seconds). Good solutions near 0: the judge flags every step. Bad "
         "solutions near 0: it flags none.",
         "percentunit", [(f"avg by (worth) (capo_canary_accuracy_ratio{{{BY}}})", "{{worth}}")]),
        ("Wrong steps", "Share of steps voted wrong. Should fall gradually during training; a jump "
         "to 0 or 1 points to the judge.", "percentunit",
         [(share(rate("capo_steps_total", more=',verdict="wrong"'), rate("capo_steps_total")),
           "wrong")]),
    ],
    "Is the policy gaming the judge?": [
        ("Wrong answers without a wrong step", "A wrong answer must have a wrong step. If this "
         "rises together with the reward, the policy has learned to fool the judge.",
         "percentunit",
         [(share(rate("capo_rollouts_judged_total", more=',outcome="wrong",flagged="false"'),
                 rate("capo_rollouts_judged_total", more=',outcome="wrong"')), "unflagged")]),
        ("Correct answers with a wrong step", "Lucky answers, or a judge that is too strict.",
         "percentunit",
         [(share(rate("capo_rollouts_judged_total", more=',outcome="right",flagged="true"'),
                 rate("capo_rollouts_judged_total", more=',outcome="right"')), "flagged")]),
        ("Reward-hacking flags", "Flagged rollouts by reason (field suspicion).", "ops",
         [(rate("capo_suspicions_total", "reason"), "{{reason}}")]),
        ("Rollout length", "Unbounded growth is a common form of reward hacking.", "short",
         [(quantile(0.5, "capo_rollout_steps"), "steps, median"),
          (quantile(0.5, "capo_rollout_tokens"), "tokens, median")]),
    ],
    "Does the judge have enough room to think?": [
        ("Thoughts that reached their budget", "Share of the thoughts of completed critiques. Near "
         "1: the budget cuts most thoughts, raise thinking_tokens. Near 0: the "
         "budget suffices.", "percentunit",
         [(share(rate("capo_thoughts_truncated_total"), rate("capo_thought_tokens_count")),
           "reached the budget")]),
        ("Length of thoughts", "Tokens of a thought, within the width of the histogram's buckets.",
         "short",
         [(quantile(0.5, "capo_thought_tokens"), "median"),
          (quantile(0.95, "capo_thought_tokens"), "p95"),
          (share(rate("capo_thought_tokens_sum"), rate("capo_thought_tokens_count")), "mean")]),
        ("Share of thoughts in completion tokens", "The rest is verdicts. Thoughts that were ended "
         "early count as well.", "percentunit",
         [(share(rate("capo_judge_tokens_total", more=',kind="thinking"'),
                 rate("capo_judge_tokens_total", more=',kind="completion"')), "thoughts")]),
    ],
    "What does it cost?": [
        ("Judge tokens", "Cached prompt tokens are almost free. Completion includes thinking, and "
         "prompt includes cached.", "ops",
         [(rate("capo_judge_tokens_total", "kind"), "{{kind}}")]),
        ("Critiques run and skipped", "Skipped by early stopping.", "ops",
         [(rate("capo_critiques_total"), "run"), (rate("capo_critiques_saved_total"), "skipped")]),
        ("Result-cache hit rate", "Share of rollouts answered from the cache.", "percentunit",
         [(share(rate("capo_result_cache_total", more=',result="hit"'),
                 rate("capo_result_cache_total", more=',result=~"hit|miss"')), "hits")]),
        ("Rollouts by API key", "Answered rollouts per second.", "ops",
         [(rate("capo_rollouts_total", "key"), "{{key}}")]),
    ],
    "The engine": [
        ("vLLM requests", "Waiting requests mean that vLLM is at capacity.", "short",
         [(f"vllm:num_requests_running{{{BY}}}", "{{instance}} running"),
          (f"vllm:num_requests_waiting{{{BY}}}", "{{instance}} waiting")]),
        ("KV-cache usage", "At 100% vLLM preempts critiques and recomputes them.", "percentunit",
         [(f"vllm:kv_cache_usage_perc{{{BY}}}", "{{instance}}")]),
        ("Prefix-cache hit rate", "Share of prompt tokens found in the prefix cache.",
         "percentunit",
         [(share(rate("vllm:prefix_cache_hits_total"), rate("vllm:prefix_cache_queries_total")),
           "hits")]),
    ],
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's import format."""
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
