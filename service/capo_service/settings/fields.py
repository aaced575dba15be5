"""The settings: their names, types, defaults and descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from capo_service.core.suspicion import SuspicionAction, SuspicionReason
from capo_service.settings import checks, environment

# Judges that `capo testbed` trains. They only know bare verdicts, written from the first character.
TESTBED_JUDGES = frozenset({"testbed", "testbed-f80", "testbed-f60"})


def _default_style(given: Mapping[str, Any]) -> Literal["verdict", "brief"]:
    return "verdict" if given.get("model") in TESTBED_JUDGES else "brief"


class Settings(BaseSettings):
    """Settings of `capo serve`. Each is also a variable: `max_steps` is `CAPO_MAX_STEPS`."""

    model_config = SettingsConfigDict(env_prefix=environment.PREFIX, extra="forbid", frozen=True)

    # The judge
    model: str = Field(
        "embedded",
        description="The judge: Hugging Face name, folder, `embedded` (135M, for demos), or "
        "`testbed`.",
    )
    engine: Literal["vllm", "openai", "symbolic"] = Field(
        "vllm",
        description="What runs the judge: vllm (in this process), openai (an OpenAI-compatible "
        "server), or symbolic (no model: only the arithmetic in the steps is checked).",
    )
    engine_args: dict[str, Any] = Field(
        {}, description="Engine vllm: vLLM engine arguments, passed through."
    )
    engine_hang_seconds: float = Field(
        60,
        gt=0,
        description="Engine vllm: restart vLLM if it has not responded for this many seconds.",
    )
    upstream: str | None = Field(
        None, description="Engine openai: base URL of the server, as http://HOST:PORT."
    )
    upstream_api_key: SecretStr | None = Field(
        None, description="Engine openai: API key for the server."
    )
    prompt_form: Literal["auto", "tokens", "chat"] = Field(
        "auto",
        description="Engine openai: send prompts as token ids (vLLM only) or as chat messages; "
        "auto detects what the server supports.",
    )
    tokenizer: str | None = Field(
        None, description="Engine openai: the judge's tokenizer. Default: the model's own."
    )
    upstream_concurrency: int = Field(
        256, ge=1, description="Engine openai: maximum concurrent requests."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="Keyword arguments for the judge's chat template."
    )
    template: Path | None = Field(
        None, description="Jinja file that replaces the built-in prompt template."
    )
    critique_style: Literal["verdict", "brief", "full"] = Field(
        default_factory=_default_style,
        description="Length of the analysis in a critique: none (verdict), 200 characters (brief) "
        "or 1,200 (full). Default: `brief` (`verdict` for the built-in test judges).",
    )
    critique_format: Literal["json", "tag"] = Field(
        "json",
        description="json: JSON, enforced by a grammar. tag: free text that ends in a tagged list "
        "of wrong steps, as in the paper.",
    )
    prefill: bool = Field(
        default_factory=lambda given: given.get("model") not in TESTBED_JUDGES,
        description="Prefill the fixed start of the JSON answer to save output tokens. Default: "
        "yes (no for the built-in test judges, which were trained without it).",
    )
    symbolic_votes: int = Field(
        0,
        ge=0,
        le=64,
        description="Votes of the arithmetic checker against a step with a false equation, in "
        "addition to the judge's votes.",
    )
    nonce_secret: SecretStr | None = Field(
        None,
        description="Secret from which the nonces in step tags are derived; set the same on every "
        "replica. Default: random.",
    )
    tokenizers: dict[str, str] = Field(
        {},
        description="Additional tokenizers that rollouts may name: name -> Hugging Face name or "
        "folder.",
    )

    # The server
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free port.")
    read_seconds: float = Field(
        30,
        gt=0,
        description="Read timeout: for the headers of a request, for its body, and for a client "
        "to read a line of a stream.",
    )
    drain_seconds: float = Field(
        30, ge=0, description="Drain timeout: on shutdown, how long accepted work may take."
    )

    # Who may call
    api_keys: list[SecretStr] = Field(
        [],
        description="API keys, one of which clients must send (Authorization: Bearer). Default: "
        "the key in the variable CAPO_API_KEY, unless `api_keys_file` is set.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="TOML file of hashed keys with roles and quotas (`capo key NAME` makes an "
        "entry); reloaded when it changes, and on SIGHUP.",
    )
    metrics_need_key: bool = Field(
        False, description="Whether /metrics needs a key with the role `metrics`."
    )
    tls_cert: Path | None = Field(None, description="PEM file, certificate chain: serve HTTPS.")
    tls_key: Path | None = Field(None, description="PEM file, private key of `tls_cert`.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file, certificate authorities: require client certificates signed by one "
        "of them (mTLS).",
    )

    # Logs and traces
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level logged; debug also logs every HTTP request."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of log lines: plain text or JSON."
    )
    log_rollouts: bool = Field(
        False, description="Log rollouts and their credit, including the text."
    )
    otlp_endpoint: str | None = Field(
        None, description="Base URL of an OpenTelemetry collector (OTLP over HTTP) for traces."
    )
    trace_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Trace sample ratio, for requests without a sampling decision by the client.",
    )

    # Limits
    max_rollouts: int = Field(1024, ge=1, description="Maximum rollouts per request.")
    max_body_bytes: int = Field(
        32 << 20, ge=1024, description="Maximum size of a request body, in bytes."
    )
    max_characters: int = Field(
        200_000, ge=1, description="Maximum characters of a response, question or reference."
    )
    max_response_tokens: int = Field(65_536, ge=1, description="Maximum tokens of a response.")
    max_steps: int = Field(400, ge=1, description="Maximum steps of a response.")
    max_critiques: int = Field(64, ge=1, le=64, description="Maximum critiques per rollout.")
    max_queued_tokens: int = Field(
        4_000_000,
        ge=1,
        description="Queue capacity in tokens: of all accepted and unanswered rollouts, each "
        "estimated at a quarter of its characters plus the expected length of its critiques.",
    )
    max_running: int | None = Field(
        None,
        ge=1,
        description="Maximum rollouts judged concurrently. Default: the engine's number of "
        "sequences (vLLM's max_num_seqs, or upstream_concurrency), at least 128.",
    )

    # Reward hacking, probes and the inspector
    suspicion: dict[SuspicionReason, SuspicionAction] = Field(
        {},
        description="Action for each reward-hacking flag: off (not checked), flag (reported in the "
        "result; the default), cap (step_splitting, padding, repetition only: the flagged steps "
        "earn no more than the worst other step), or wrong (the flagged steps, or all steps, count "
        "as wrong).",
    )
    live_rollouts: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Recent rollouts that the live view keeps in memory, with their text; 0: none.",
    )
    allow_origins: list[str] = Field(
        [],
        description="CORS origins that may call this service, for example an inspector on another "
        "host that compares judges.",
    )
    canary_seconds: float = Field(
        0,
        ge=0,
        description="Interval in seconds between known-answer probes (solutions with known wrong "
        "steps, judged to measure the judge); 0: none.",
    )
    canary_file: Path | None = Field(
        None,
        description="JSON Lines of `question`, `steps` and `wrong_steps` that replace the built-in "
        "probes.",
    )

    # The result cache
    result_cache: str = Field(
        "memory",
        pattern=r"^(none|memory|(rediss?|unix)://.+)$",
        description="Where results are cached: none, memory, or the URL of a Redis shared by the "
        "replicas.",
    )
    result_cache_bytes: int = Field(
        256 << 20, ge=1, description="Maximum size of the cache in memory, in bytes."
    )
    result_cache_seconds: float = Field(
        3600, gt=0, description="Time to live of a cached result, in seconds."
    )

    # The answer verifier
    verify_timeout: float = Field(
        3.0, gt=0, description="Timeout for verifying one final answer, in seconds."
    )
    verify_workers: int | None = Field(
        None, ge=1, description="Processes that verify final answers. Default: one per CPU, 2 to 8."
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Settings:
        for check in checks.ALL:
            check(self)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then variables, then the TOML file."""
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101  # for the type checker
        env_settings.env_vars = {
            name: value
            for name, value in env_settings.env_vars.items()
            if not environment.is_service_link(name.upper(), value)
        }
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
