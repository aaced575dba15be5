"""Readiness, key, versions, judge, tokenizers and limits of a capo service."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import httpx
from pydantic import ValidationError

import capo_wire as wire
from capo_client.cli.doctor.address import is_local
from capo_client.cli.doctor.report import Report
from capo_client.cli.exit_codes import FAILURES, UNAVAILABLE

STEP_ROLLOUTS = 1024  # rollouts of a training step, for estimates
_SHORT_CONTEXT = 4096  # tokens

# Judges that are for a first try, a demonstration or tests -> why not to train with them.
_NOT_FOR_TRAINING = {
    "symbolic": "the arithmetic checker finds false equations and no other errors",
    "demo": "the demo's judge knows only short arithmetic stories",
    "SmolLM2-135M-Instruct": "the embedded model is too small to find most errors",
    "testbed": "the testbed's judges know only short arithmetic stories",
}


def check_ready(report: Report, http: httpx.Client) -> None:
    """Check that the service is alive and that its judge is loaded.

    Raises:
        CannotGoOn: it is not.
    """
    live, ready = http.get("/health/live"), http.get("/health/ready")
    if live.status_code != 200:
        advice = "restart the service; its log says why it failed"
        report.stop("ready", _detail(live), advice, UNAVAILABLE)
    if ready.status_code != 200:
        advice = (
            "wait, and run this command again. The service's log shows the progress; large judges "
            "take minutes to load"
        )
        report.stop("ready", f"not ready: {_detail(ready)}", advice, UNAVAILABLE)
    report.ok("ready", "the service is live, and its judge is loaded")


def _detail(response: httpx.Response) -> str:
    try:
        return wire.Problem.model_validate_json(response.content).detail
    except ValidationError:
        return f"{response.url} returns {response.status_code}"


def check_key(report: Report, http: httpx.Client, key: str | None) -> wire.Info | None:
    """Check the API key; with one, `http` sends it from then on.

    Returns:
        What the service says about itself; None if the key lacks the role for it.

    Raises:
        CannotGoOn: the service requires another key, or its response cannot be read.
    """
    anonymous = http.get("/info")
    if anonymous.status_code == 200:
        _no_key_needed(report, key)
        return _read(report, anonymous)
    if key is None:
        report.stop(
            "key",
            "the service requires an API key, and none was given",
            "set --api-key or CAPO_API_KEY to one of the service's keys",
            FAILURES,
        )
    http.headers["Authorization"] = f"Bearer {key}"
    response = http.get("/info")
    if response.status_code == 401:
        report.stop(
            "key",
            "the service does not accept this API key",
            "compare --api-key or CAPO_API_KEY with the service's keys (its api_keys or "
            "api_keys_file); `capo key NAME` makes a key",
            FAILURES,
        )
    if response.status_code == 403:
        report.warn(
            "key",
            "the API key is accepted, and lacks the role info: judge, tokenizers and limits are "
            "not checked",
            "use a key with the roles info and credit",
        )
        return None
    report.ok("key", "the API key is accepted")
    return _read(report, response)


def _no_key_needed(report: Report, key: str | None) -> None:
    said = "the service accepts requests without an API key"
    if key is not None:
        said += ", so the one given is not needed"
    if is_local(report.url):
        report.ok("key", said)
    else:
        report.warn(
            "key",
            f"{said}: any client that reaches {report.url} can use the judge",
            "start it with capo serve --api-key KEY, or let only the trainer reach it",
        )


def _read(report: Report, response: httpx.Response) -> wire.Info:
    try:
        return wire.Info.model_validate_json(response.content)
    except ValidationError:
        report.stop(
            "versions",
            f"GET /info returns {response.status_code}, which this client cannot read",
            "install the same version of capo-credit here and there",
            FAILURES,
        )


def check_versions(report: Report, info: wire.Info) -> None:
    """Check that client and service speak the same version of the HTTP API.

    Raises:
        CannotGoOn: they do not.
    """
    own = importlib.metadata.version("capo-credit")
    said = f"client {own}, service {info.version}"
    if info.wire != wire.VERSION:
        report.stop(
            "versions",
            f"{said}: the service has version {info.wire} of the HTTP API, the client "
            f"{wire.VERSION}",
            "install the same version of capo-credit here and there",
            FAILURES,
        )
    report.ok("versions", f"{said}, HTTP API {wire.VERSION}")


def check_judge(report: Report, info: wire.Info) -> None:
    """Show the judge, with a warning if it is not one to train with."""
    said = (
        f"{info.model} (engine {info.engine}, critique style {info.critique_style}, format "
        f"{info.critique_format})"
    )
    reasons = _NOT_FOR_TRAINING.items()
    kind = next((why for name, why in reasons if info.model.startswith(name)), None)
    if kind is None:
        report.ok("judge", said)
    else:
        report.warn(
            "judge",
            f"{said} is not for training: {kind}",
            "serve a model of 7B parameters or more, such as capo serve Qwen/Qwen2.5-7B-Instruct",
        )


def check_tokenizers(report: Report, info: wire.Info, wanted: str | None) -> None:
    """Show the tokenizers, and check that the wanted one is among them."""
    served = ", ".join(info.tokenizers) or "none"
    if wanted is None:
        advice = "" if info.tokenizers else "to send token ids: capo serve --tokenizer NAME=PATH"
        report.ok("tokenizers", f"served: {served}; token_offsets can always be sent", advice)
    elif wanted in info.tokenizers:
        report.ok("tokenizers", f"{wanted} is served (all: {served})")
    else:
        report.fail(
            "tokenizers",
            f"{wanted} is not served; the service has: {served}",
            f"start it with capo serve --tokenizer {wanted}=PATH (a Hugging Face name or a "
            "folder), or send token_offsets",
        )


def check_limits(report: Report, info: wire.Info) -> None:
    """Show context length and limits, with what they mean for a training step."""
    context = info.context_length
    length = "unknown" if context is None else f"{context:,} tokens"
    has_context = info.engine != "symbolic"  # which reads rollouts of any length
    names = ("max_steps", "max_response_tokens", "max_rollouts", "max_running")
    limits = [f"{name} {info.limits[name]:,}" for name in names if info.limits.get(name)]
    said = ", ".join([f"context length {length}"] * has_context + limits)
    if has_context and context is not None and context < _SHORT_CONTEXT:
        report.warn(
            "limits",
            said,
            "prompt, rollout and critique must fit into the context: for long rollouts serve a "
            "judge with a longer one",
        )
    else:
        report.ok("limits", said)
    if queued := info.limits.get("max_queued_tokens"):
        report.ok(
            "queue",
            f"max_queued_tokens {queued:,}: {STEP_ROLLOUTS:,} rollouts at once fit if each needs "
            f"at most {queued // STEP_ROLLOUTS:,} judge tokens, prompts and critiques together",
            "if they need more, the rest is refused with 429, and the client sends it again",
        )


def check_monitoring(report: Report, http: httpx.Client) -> None:
    """Say whether the live view and the known-answer probes are on."""
    response = http.get("/live")
    if response.status_code != 200:
        return  # an older service, or a key without the role info
    data: dict[str, Any] = response.json()
    samples = data.get("samples") or [{}]
    off = []
    if not data.get("keeps"):
        off.append(("the live view keeps no rollouts", "live_rollouts=100"))
    if all(sample.get("canary_good") is None for sample in samples):
        off.append(("no known-answer probe has been judged", "canary_seconds=60"))
    if off:
        report.ok(
            "monitoring",
            ", and ".join(said for said, _ in off),
            "to turn on: capo serve " + " ".join(f"--set {setting}" for _, setting in off),
        )
    else:
        report.ok("monitoring", "the live view and the known-answer probes are on")
