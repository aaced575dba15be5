"""Every setting of the service: command line, then CAPO_* variables, then a TOML file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from capo_service.core.suspicion import CAPPED, Action, Reason
from capo_service.engine import testbed
from capo_service.pipeline.prepare import Policy
from capo_service.settings import environment
from capo_wire.validation import field_path, message_of

# pydantic's error about a default that hangs on a field which is itself in error.
_FOLLOWS = "default_factory_not_called"
# Their values are not shown in errors; the URL of a cache may hold a password.
_SECRETS = {"api_keys", "upstream_api_key", "nonce_secret", "result_cache"}
_FORMS = {
    "list_type": """ (write a list: --set '{}=["a", "b"]')""",
    "dict_type": """ (write an object: --set '{}={{"name": "value"}}')""",
}


class SettingsError(ValueError):
    """A setting is unknown or has a value that cannot be used; the message names each."""


class Settings(BaseSettings):
    """Settings of `capo serve`. Each is also a variable: `max_steps` is `CAPO_MAX_STEPS`."""

    model_config = SettingsConfigDict(env_prefix=environment.PREFIX, extra="forbid", frozen=True)

    # The judge
    model: str = Field("embedded", description="Hub name, folder, `embedded`, or `testbed`.")
    engine: Literal["vllm", "openai", "symbolic"] = Field(
        "vllm",
        description="What runs the judge. symbolic: no model; only the arithmetic of steps is "
        "checked.",
    )
    engine_args: dict[str, Any] = Field({}, description="Any vLLM engine argument, passed through.")
    engine_hang_seconds: float = Field(
        60, gt=0, description="Engine vllm: without an answer for so long it is started again."
    )
    upstream: str | None = Field(None, description="Engine openai: base URL of the server.")
    upstream_api_key: SecretStr | None = Field(None, description="Engine openai: its key.")
    prompt_form: Literal["auto", "tokens", "chat"] = Field(
        "auto",
        description="Engine openai: send token ids (vLLM) or chat text; auto asks the server.",
    )
    tokenizer: str | None = Field(
        None, description="Engine openai: the judge's tokenizer, if not the model's own."
    )
    upstream_concurrency: int = Field(256, ge=1, description="Engine openai: calls at once.")
    chat_template_kwargs: dict[str, Any] = Field({}, description="For the judge's chat template.")
    template: Path | None = Field(None, description="A prompt template in place of the built-in.")
    critique_style: Literal["verdict", "brief", "full"] = Field(
        default_factory=lambda given: "verdict" if given.get("model") in testbed.NAMES else "brief",
        description="Length of a critique's analysis: none, 200 or 1,200 characters. By default "
        "brief; verdict for the testbed's judges, which know no other.",
    )
    critique_format: Literal["json", "tag"] = Field(
        "json", description="json: decoded under a grammar. tag: the paper's free text."
    )
    prefill: bool = Field(
        default_factory=lambda given: given.get("model") not in testbed.NAMES,
        description="Whether the prompt holds what the grammar makes each critique begin with, "
        "so that the judge need not write it. By default yes; not for the testbed's judges, which "
        "were trained without.",
    )
    symbolic_votes: int = Field(
        0,
        ge=0,
        le=64,
        description="Votes that a false equation casts against its step, beside the judge's.",
    )
    nonce_secret: SecretStr | None = Field(
        None, description="Secret behind the step tags' nonce; set the same on every replica."
    )
    tokenizers: dict[str, str] = Field(
        {}, description="More tokenizers that rollouts may name: name -> hub name or path."
    )

    # The server
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any.")
    read_seconds: float = Field(
        30,
        gt=0,
        description="For a request's headers to arrive, again for its body, and for a caller to "
        "take a line of a stream.",
    )
    drain_seconds: float = Field(30, ge=0, description="On stop: time for accepted work to end.")

    # Who may call
    api_keys: list[SecretStr] = Field(
        [],
        description="If any: callers must send one as Bearer. Without this and `api_keys_file` the "
        "variable CAPO_API_KEY is the one key.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="TOML file of hashed keys with roles and quotas (`capo key NAME` makes one); "
        "read again when it changes, and on SIGHUP.",
    )
    metrics_need_key: bool = Field(
        False, description="Whether /metrics asks for a key with the role metrics."
    )
    tls_cert: Path | None = Field(None, description="PEM certificate chain: serve HTTPS.")
    tls_key: Path | None = Field(None, description="Its private key.")
    tls_client_ca: Path | None = Field(
        None, description="PEM: callers must bring a certificate that one of these signed (mTLS)."
    )

    # What it tells of itself
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug also logs every request, to whatever path."
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or JSON.")
    log_rollouts: bool = Field(False, description="Log rollouts and credit, with their text.")
    otlp_endpoint: str | None = Field(
        None, description="Base URL of an OpenTelemetry collector (OTLP over HTTP) for traces."
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="Share of traces kept, where the caller has not decided."
    )

    # Limits
    max_rollouts: int = Field(1024, ge=1, description="Rollouts in one request.")
    max_body_bytes: int = Field(32 << 20, ge=1024, description="Bytes of a request's body.")
    max_characters: int = Field(
        200_000, ge=1, description="Characters of one response, question or reference."
    )
    max_response_tokens: int = Field(65_536, ge=1, description="Tokens of one response.")
    max_steps: int = Field(400, ge=1, description="Steps of one response.")
    max_critiques: int = Field(64, ge=1, le=64, description="Critiques of one rollout.")
    max_queued_tokens: int = Field(
        4_000_000,
        ge=1,
        description="Tokens accepted and not yet answered: a rollout's, at four characters each, "
        "and what its critiques may take.",
    )
    max_running: int | None = Field(
        None,
        ge=1,
        description="Rollouts that the judge works on at once. By default as many as the engine "
        "has sequences (vLLM's max_num_seqs, or upstream_concurrency), and at least 128.",
    )

    # Rollouts that look like gaming the judge
    suspicion: dict[Reason, Action] = Field(
        {},
        description="What is done about a reason for suspicion: off, flag (told in the result; the "
        "default), cap (step_splitting, padding, repetition: those steps earn no more than the "
        "worst other), or wrong (those steps, or all, count as wrong).",
    )
    live_rollouts: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Credited rollouts that the live view keeps, with their text; 0: none.",
    )
    allow_origins: list[str] = Field(
        [],
        description="Origins whose pages may call this service, as an inspector elsewhere that "
        "compares judges.",
    )
    canary_seconds: float = Field(
        0, ge=0, description="Judge a solution of known worth so often; 0: never."
    )
    canary_file: Path | None = Field(
        None, description="JSON lines of `question`, `steps`, `wrong_steps`, in place of our own."
    )

    # Results that were judged before
    result_cache: str = Field(
        "memory",
        pattern=r"^(none|memory|(rediss?|unix)://.+)$",
        description="none, memory, or the URL of a Redis that replicas share.",
    )
    result_cache_bytes: int = Field(256 << 20, ge=1, description="In memory: bytes of results.")
    result_cache_seconds: float = Field(3600, gt=0, description="How long a result is kept.")

    # The rule verifier
    verify_timeout: float = Field(3.0, gt=0, description="Seconds for one answer's verification.")
    verify_workers: int | None = Field(
        None,
        ge=1,
        description="Processes that verify answers. By default one per CPU, 2 to 8.",
    )

    def policy(self) -> Policy:
        """What `prepare` needs to know of these settings."""
        return Policy(
            style=self.critique_style,
            format=self.critique_format,
            prefill=self.prefill,
            max_characters=self.max_characters,
            max_response_tokens=self.max_response_tokens,
            max_steps=self.max_steps,
            max_critiques=self.max_critiques,
            suspicion=self.suspicion,
            symbolic_votes=self.symbolic_votes,
        )

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.engine == "openai" and self.upstream is None:
            raise ValueError(
                "engine openai needs upstream, the base URL of the server: "
                "--upstream http://HOST:PORT"
            )
        if self.engine != "openai" and self.upstream is not None:
            raise ValueError(
                f"upstream is for engine openai, and the engine is {self.engine}: add "
                "--engine openai, or leave upstream out"
            )
        if self.engine == "openai" and self.model == "embedded":
            raise ValueError("engine openai needs model: the name that the server knows it by")
        if self.engine == "openai" and self.engine_args:
            raise ValueError("engine_args are for engine vllm; configure the upstream itself")
        if self.engine == "symbolic" and (
            "model" in self.model_fields_set or self.engine_args or self.template
            or self.symbolic_votes
        ):  # fmt: skip
            raise ValueError(
                "engine symbolic has no model: leave out model, engine_args, template and "
                "symbolic_votes"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        for name in ("tls_cert", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name} {path} is not a file")
        if capped := sorted(r for r, a in self.suspicion.items() if a == "cap" and r not in CAPPED):
            raise ValueError(
                f"suspicion {', '.join(capped)}: cap is for steps ({', '.join(CAPPED)}); take off, "
                "flag or wrong"
            )
        if self.canary_file is not None and not self.canary_file.is_file():
            raise ValueError(f"canary_file {self.canary_file} is not a file")
        if self.template is not None and not self.template.is_file():
            raise ValueError(f"template {self.template} is not a file")
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
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101  # for the type checker
        env_settings.env_vars = {
            name: value
            for name, value in env_settings.env_vars.items()
            if not environment.is_service_link(name.upper(), value)
        }
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Settings from overrides, CAPO_* variables and a TOML file, in this order.

    Without `api_keys` and `api_keys_file`, CAPO_API_KEY is the one key that callers must send.

    Raises:
        SettingsError: a setting is unknown or has a wrong value.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"config file {config} is not there")
    known = set(Settings.model_fields)
    if (variable := environment.unknown(os.environ, known)) is not None:
        raise SettingsError(variable)

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        loaded = Loaded(**overrides)
    except ValidationError as error:
        told = [_explain(item, known) for item in error.errors() if item["type"] != _FOLLOWS]
        raise SettingsError("; ".join(told)) from None
    except ValueError as error:  # TOML that cannot be parsed, JSON in a variable
        raise SettingsError(_explain_source(error)) from None
    return _protected(loaded, os.environ.get(environment.API_KEY, ""))


def _protected(settings: Settings, key: str) -> Settings:
    """With the key that the client's variable holds, where no other is set."""
    if not key or settings.api_keys or settings.api_keys_file is not None:
        return settings
    if key != key.strip() or not key.isascii() or not key.isprintable():
        raise SettingsError(
            f"{environment.API_KEY} cannot be sent in a header: it must be printable ASCII, and "
            "neither begin nor end with white space"
        )
    return settings.model_copy(update={"api_keys": [SecretStr(key)]})


def _explain(error: Any, known: set[str]) -> str:
    name = field_path(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting {name}{environment.suggestion(name, known)}"
    message = message_of(error)
    if not name:
        return message
    value = "" if error["loc"][0] in _SECRETS else f", not {error['input']!r}"
    return f"{name}: {message}{value}{_FORMS.get(error['type'], '').format(name)}"


def _explain_source(error: ValueError) -> str:
    """pydantic-settings names a field and its own class; the user knows the variable."""
    found = re.fullmatch(r'error parsing value for field "(\w+)" from source "\w+"', str(error))
    if found is None:
        return str(error)
    return (
        f'{environment.PREFIX}{found[1].upper()}: write JSON, as ["a", "b"] or {{"name": "value"}}'
    )
