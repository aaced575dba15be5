"""Settings: what the environment may hold, what is refused, and what the refusal says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from capo_service.settings import Settings, SettingsError, environment, load
from capo_service.settings.fields import GROUPS
from capo_service.settings.metadata import When

ROOT = Path(__file__).resolve().parents[2]
# As Kubernetes sets them for Services called `capo` and `capo-redis` (kubectl exec POD -- env).
SERVICE_LINKS = {
    "CAPO_SERVICE_HOST": "10.96.12.7",
    "CAPO_SERVICE_PORT": "8000",
    "CAPO_SERVICE_PORT_HTTP": "8000",
    "CAPO_PORT": "tcp://10.96.12.7:8000",
    "CAPO_PORT_8000_TCP": "tcp://10.96.12.7:8000",
    "CAPO_PORT_8000_TCP_PROTO": "tcp",
    "CAPO_PORT_8000_TCP_PORT": "8000",
    "CAPO_PORT_8000_TCP_ADDR": "10.96.12.7",
    "CAPO_PORT_53_UDP_ADDR": "10.96.12.7",
    "CAPO_REDIS_SERVICE_HOST": "10.96.0.9",
    "CAPO_REDIS_SERVICE_PORT_REDIS": "6379",
    "CAPO_REDIS_PORT": "tcp://10.96.0.9:6379",
    "CAPO_REDIS_PORT_6379_TCP_ADDR": "10.96.0.9",
}


def test_variables_of_a_kubernetes_service_called_capo_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert load().port == 8000
    assert load(None, port=9).port == 9
    monkeypatch.setenv("CAPO_PORT", "81")
    assert load().port == 81, "a port is still a port"


def documented_variables() -> set[str]:
    """Every CAPO_* variable that a page, a recipe, the client or a tool names."""
    pages = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]
    folders = ("client", "trainer", "recipes", "tools", "deploy")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    found: set[str] = set()
    for path in [*pages, *files]:
        if path.suffix not in (".pyc", ".png", ".jsonl"):
            found |= set(re.findall(r"\bCAPO_[A-Z_]*[A-Z]\b", path.read_text("utf-8")))
    return found


def test_every_documented_variable_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {environment.PREFIX + name.upper() for name in Settings.model_fields}
    others = documented_variables() - settings
    assert {"CAPO_URL", "CAPO_OPTIONS", "CAPO_API_KEY", "CAPO_CA_FILE"} <= others
    for name in others:
        monkeypatch.setenv(name, "8" if name.endswith("PORT") else "something")
    load()


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CAPO_MODLE", "x", "(did you mean CAPO_MODEL?)"),
        ("CAPO_OPTION", "{}", "(did you mean CAPO_OPTIONS?)"),
        ("CAPO_API_KEYZ", "x", "(did you mean CAPO_API_KEY"),
        ("CAPO_SERVICE_HOSTS", "x", "unknown setting CAPO_SERVICE_HOSTS"),
        ("CAPO_REDIS_PORT", "6379", "unknown setting CAPO_REDIS_PORT"),
        ("CAPO_PORT", "8000/tcp", "port: "),
    ],
)
def test_a_typo_is_still_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=re.escape(says)):
        load()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"engine": "openai", "model": "x"}, "engine openai needs upstream"),
        ({"upstream": "http://x"}, "upstream is for engine openai, and the engine is vllm"),
        (
            {"engine": "sglang"},
            "engine: Input should be 'vllm', 'openai' or 'symbolic', not 'sglang'",
        ),
        ({"port": 99999}, "port: Input should be less than or equal to 65535, not 99999"),
        ({"api_keys": {"a": 1}}, """(write a list: --set 'api_keys=["a", "b"]')"""),
        ({"api_keys": [""]}, "api_keys: a key must be printable ASCII"),
        ({"api_keys": ["a", "b "]}, "api_keys: a key must be printable ASCII"),
        ({"api_keys": "[secret"}, 'api_keys: write JSON, for example ["a", "b"], or one plain'),
        ({"tokenizers": "gpt2"}, "(write --tokenizer NAME=PATH)"),
        ({"suspicion": "off"}, """(write an object: --set 'suspicion={"name": "value"}')"""),
        ({"engine": "openai", "upstream": "http://x"}, "engine openai needs model"),
        ({"engine_args": {"model": "x"}}, "engine_args has model"),
    ],
)
def test_a_refusal_says_what_to_change_and_nothing_else(
    given: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(None, **given)
    said = str(refused.value)
    assert says in said
    assert "default factory" not in said and ";" not in said.removesuffix(says), (
        "one fault, one text"
    )


def test_secrets_are_not_in_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (
        {"api_keys": {"hush": 1}},
        {"api_keys": "[hush"},
        {"api_keys": ["hush "]},
        {"nonce_secret": ["hush"]},
        {"result_cache": "redis:hush"},
    ):
        with pytest.raises(SettingsError) as refused:
            load(None, **given)
        assert "hush" not in str(refused.value)
    monkeypatch.setenv("CAPO_API_KEYS", "[hush")
    with pytest.raises(SettingsError, match="api_keys: write JSON") as refused:
        load()
    assert "hush" not in str(refused.value)


def keys(settings: Settings) -> list[str]:
    return [key.get_secret_value() for key in settings.api_keys]


def test_a_list_may_be_one_plain_string(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert keys(load(None, api_keys="secret")) == ["secret"]
    assert keys(load(None, api_keys=123)) == ["123"], "as --set reads digits"
    assert keys(load(None, api_keys='["a", "b"]')) == ["a", "b"]
    assert load(None, allow_origins="https://x").allow_origins == ["https://x"]
    config = tmp_path / "capo.toml"
    config.write_text('api_keys = "of-the-file"')
    assert keys(load(config)) == ["of-the-file"]
    monkeypatch.setenv("CAPO_API_KEYS", "of-the-variable")
    assert keys(load(config)) == ["of-the-variable"]
    monkeypatch.setenv("CAPO_API_KEYS", '["a", "b"]')
    assert keys(load(config)) == ["a", "b"]
    monkeypatch.setenv("CAPO_API_KEYS", "")
    assert keys(load(config)) == []


def test_every_setting_is_in_one_group_and_says_when_to_change_it() -> None:
    grouped = [name for group in GROUPS for name in group.model_fields]
    assert sorted(grouped) == sorted(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        when = [each.text for each in field.metadata if isinstance(each, When)]
        assert len(when) == 1 and field.description, name


def test_the_clients_key_variable_protects_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPO_API_KEY", "secret")
    assert keys(load()) == ["secret"]
    assert keys(load(None, api_keys=["other"])) == ["other"], "keys that are named are the keys"
    file = load(None, api_keys_file="keys.toml")
    assert keys(file) == [], "a key of the file must not gain what the file does not give it"
    monkeypatch.setenv("CAPO_API_KEY", "")
    assert keys(load()) == []
    for unfit in ("secret\n", " secret", "schlüssel"):
        monkeypatch.setenv("CAPO_API_KEY", unfit)
        with pytest.raises(SettingsError, match="CAPO_API_KEY cannot be sent") as refused:
            load()
        assert unfit.strip() not in str(refused.value)
