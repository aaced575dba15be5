"""Settings of what happens to results: reward-hacking flags, probes, cache, answer verifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from capo_service.core.suspicion import SuspicionAction, SuspicionReason
from capo_service.settings.metadata import When


class HackingSettings(BaseModel):
    """Reward hacking, probes and the inspector"""

    suspicion: Annotated[
        dict[SuspicionReason, SuspicionAction],
        When("the policy games the judge in a way that a flag shows"),
    ] = Field(
        {},
        description="Action for each reward-hacking flag: off (not checked), flag (reported in the "
        "result; the default), cap (step_splitting, padding, repetition only: the flagged steps "
        "earn no more than the worst other step), or wrong (the flagged steps, or all steps, count "
        "as wrong).",
    )
    live_rollouts: Annotated[
        int, When("the inspector should show recent rollouts (200 is a good start)")
    ] = Field(
        0,
        ge=0,
        le=10_000,
        description="Recent rollouts that the live view keeps in memory, with their text; 0: none.",
    )
    canary_seconds: Annotated[
        float, When("judge accuracy is monitored during training (60 is a good start)")
    ] = Field(
        0,
        ge=0,
        description="Interval in seconds between known-answer probes (solutions with known wrong "
        "steps, judged to measure the judge); 0: none.",
    )
    canary_file: Annotated[Path | None, When("your problems differ from the built-in ones")] = (
        Field(
            None,
            description="JSON Lines of `question`, `steps` and `wrong_steps` that replace the "
            "built-in probes.",
        )
    )


class CacheSettings(BaseModel):
    """Result cache"""

    result_cache: Annotated[
        str, When("repeated requests must be judged again (none), or replicas share results")
    ] = Field(
        "memory",
        pattern=r"^(none|memory|(rediss?|unix)://.+)$",
        description="Where results are cached: none, memory, or the URL of a Redis shared by the "
        "replicas.",
    )
    result_cache_bytes: Annotated[int, When("the process has little memory, or much")] = Field(
        256 << 20, ge=1, description="Maximum size of the cache in memory, in bytes."
    )
    result_cache_seconds: Annotated[float, When("interrupted runs are resumed later than this")] = (
        Field(3600, gt=0, description="Time to live of a cached result, in seconds.")
    )


class VerifierSettings(BaseModel):
    """Answer verifier"""

    verify_timeout: Annotated[float, When("correct answers are long expressions")] = Field(
        3.0, gt=0, description="Timeout for verifying one final answer, in seconds."
    )
    verify_workers: Annotated[
        int | None, When("rollouts wait for the verifier, or the CPUs are needed elsewhere")
    ] = Field(
        None, ge=1, description="Processes that verify final answers. Default: one per CPU, 2 to 8."
    )
