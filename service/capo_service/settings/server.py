"""Settings of the HTTP server: address, access, logs and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from capo_service.settings.metadata import When
from capo_service.settings.text_lists import as_list

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


def can_be_sent(key: str) -> bool:
    """Whether clients can send a key in a header, and not by leaving it out."""
    return key == key.strip() and key.isascii() and key.isprintable() and key != ""


def _check_keys(keys: list[SecretStr]) -> list[SecretStr]:
    if not all(can_be_sent(key.get_secret_value()) for key in keys):
        raise ValueError(
            "a key must be printable ASCII without white space at the ends, and not empty"
        )
    return keys


class ServerSettings(BaseModel):
    """The server"""

    host: Annotated[str, When("other machines must reach the service (0.0.0.0, with a key)")] = (
        Field("127.0.0.1", description="Address to listen on.")
    )
    port: Annotated[int, When("the port is in use")] = Field(
        8000, ge=0, le=65535, description="Port to listen on; 0: any free port."
    )
    read_seconds: Annotated[float, When("clients have a slow network")] = Field(
        30,
        gt=0,
        description="Read timeout: for the headers of a request, for its body, and for a client "
        "to read a line of a stream.",
    )
    drain_seconds: Annotated[
        float, When("batches take longer than this, and should be finished before a restart")
    ] = Field(30, ge=0, description="Drain timeout: on shutdown, how long accepted work may take.")


class AccessSettings(BaseModel):
    """Access"""

    api_keys: Annotated[
        list[SecretStr],
        NoDecode,
        BeforeValidator(as_list),
        AfterValidator(_check_keys),
        When("other people or machines can reach the service"),
    ] = Field(
        [],
        description="API keys, one of which clients must send (Authorization: Bearer); one key may "
        "be a plain string. Default: the key in the variable CAPO_API_KEY, unless `api_keys_file` "
        "is set.",
    )
    api_keys_file: Annotated[Path | None, When("teams have keys, roles or quotas of their own")] = (
        Field(
            None,
            description="TOML file of hashed keys with roles and quotas (`capo key NAME` makes an "
            "entry); reloaded when it changes, and on SIGHUP.",
        )
    )
    metrics_need_key: Annotated[bool, When("not everyone who has access may see the metrics")] = (
        Field(False, description="Whether /metrics needs a key with the role `metrics`.")
    )
    tls_cert: Annotated[Path | None, When("traffic leaves the machine or the cluster")] = Field(
        None, description="PEM file, certificate chain: serve HTTPS."
    )
    tls_key: Annotated[Path | None, When("`tls_cert` is set")] = Field(
        None, description="PEM file, private key of `tls_cert`."
    )
    tls_client_ca: Annotated[Path | None, When("clients have certificates")] = Field(
        None,
        description="PEM file, certificate authorities: require client certificates signed by one "
        "of them (mTLS).",
    )
    allow_origins: Annotated[
        list[str],
        NoDecode,
        BeforeValidator(as_list),
        When("the inspector of another service compares judges with this one"),
    ] = Field(
        [],
        description="CORS origins that may call this service, such as http://other-judge:8000; one "
        "origin may be a plain string.",
    )


class LogSettings(BaseModel):
    """Logs and traces"""

    log_level: Annotated[LogLevel, When("something has to be found out (debug)")] = Field(
        "info", description="Lowest level logged; debug also logs every HTTP request."
    )
    log_format: Annotated[LogFormat, When("a log collector reads the log")] = Field(
        "text", description="Format of log lines: plain text or JSON."
    )
    log_rollouts: Annotated[
        bool, When("problems must be traced to single rollouts, and their text may be logged")
    ] = Field(False, description="Log rollouts and their credit, including the text.")
    otlp_endpoint: Annotated[str | None, When("traces are collected")] = Field(
        None, description="Base URL of an OpenTelemetry collector (OTLP over HTTP) for traces."
    )
    trace_share: Annotated[float, When("tracing every request costs too much")] = Field(
        1.0,
        ge=0,
        le=1,
        description="Trace sample ratio, for requests without a sampling decision by the client.",
    )


class LimitSettings(BaseModel):
    """Limits"""

    max_rollouts: Annotated[int, When("a client sends larger batches in one request (413)")] = (
        Field(1024, ge=1, description="Maximum rollouts per request.")
    )
    max_body_bytes: Annotated[int, When("requests are larger (413)")] = Field(
        32 << 20, ge=1024, description="Maximum size of a request body, in bytes."
    )
    max_characters: Annotated[int, When("responses or references are longer (413)")] = Field(
        400_000, ge=1, description="Maximum characters of a response, question or reference."
    )
    max_response_tokens: Annotated[int, When("responses have more tokens (413)")] = Field(
        65_536, ge=1, description="Maximum tokens of a response."
    )
    max_observation_tokens: Annotated[
        int, When("the judge should see more, or less, of what tools and environments wrote")
    ] = Field(
        1_000,
        ge=16,
        description="Tokens of an observation that the judge is shown, where the request names no "
        "number; at most a sixth of its context.",
    )
    max_steps: Annotated[
        int, When("steps of long responses are merged, and the judge can tell more of them apart")
    ] = Field(
        400,
        ge=1,
        description="Maximum steps that are judged together. Short steps of a segmenter are merged "
        "until there are so many; a caller's own steps are judged in windows.",
    )
    windows: Annotated[
        bool, When("what exceeds the judge must be an error, since each window costs k critiques")
    ] = Field(
        True,
        description="Judge a rollout that exceeds the judge's context, or that has more than "
        "`max_steps` steps of the caller's own, in windows of consecutive steps. Off: it is an "
        "error.",
    )
    max_critiques: Annotated[int, When("one client must not take the judge's time")] = Field(
        64, ge=1, le=64, description="Maximum critiques per rollout."
    )
    max_criteria: Annotated[int, When("rollouts have more criteria (413)")] = Field(
        32, ge=1, le=256, description="Maximum criteria per rollout."
    )
    max_thinking_tokens: Annotated[
        int, When("requests ask for longer thoughts, or one client must not take the judge's time")
    ] = Field(
        32_768, ge=0, description="Maximum thinking budget that a request may name, in tokens."
    )
    max_queued_tokens: Annotated[
        int, When("training steps get 429 although they may wait, or the queue grows too long")
    ] = Field(
        4_000_000,
        ge=1,
        description="Queue capacity in tokens: of all accepted and unanswered rollouts, each "
        "estimated at a quarter of its characters plus the expected length of its critiques.",
    )
    max_running: Annotated[
        int | None, When("the judge idles while rollouts wait, or runs out of KV cache")
    ] = Field(
        None,
        ge=1,
        description="Maximum rollouts judged concurrently. Default: the engine's number of "
        "sequences (vLLM's max_num_seqs times its data-parallel ranks, or upstream_concurrency), "
        "at least 128.",
    )
