"""The Helm chart, rendered by Helm's own engine and held against Kubernetes' schemas."""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from helm_python import Chart
from helm_python.errors import HelmError

from capo_service.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "capo"
EXAMPLES = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
# What Kubernetes itself does not know; their fields are looked at below.
CUSTOM = {"LeaderWorkerSet", "ScaledObject", "ServiceMonitor", "PrometheusRule"}
IMAGE = {"image": {"repository": "registry.internal/capo-credit"}}
VERSIONS = ("1.29.0", kubernetes_validate.latest_version())

sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="module")
def chart() -> Chart:
    return Chart.load(CHART)


def example(name: str) -> dict[str, Any]:
    return values_of(CHART.parent / "examples" / f"{name}.yaml")


def values_of(path: Path | None) -> dict[str, Any]:
    """Values with an image of the user's, as `--set image.repository=...` sets it."""
    values: dict[str, Any] = yaml.safe_load(path.read_text()) if path else {}
    return {**values, "image": values.get("image", {}) | IMAGE["image"]}


def render(chart: Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    values = IMAGE | values
    chart.validate_schema(values=values)
    files = chart.render(values=values, name="rl", namespace="training")
    return [
        document
        for name, text in files.items()
        if not name.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [document for document in documents if document["kind"] == kind]
    return found


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for document in documents:
        match document["kind"]:
            case "Deployment":
                found.append(document["spec"]["template"]["spec"])
            case "Pod":
                found.append(document["spec"])
            case "LeaderWorkerSet":
                template = document["spec"]["leaderWorkerTemplate"]
                found += [template[role]["spec"] for role in ("leaderTemplate", "workerTemplate")]
    return found


def settings_of(documents: list[dict[str, Any]]) -> Settings:
    """The settings that the container would read."""
    [config] = [d["data"] for d in documents if "capo.toml" in d.get("data", ())]
    values = tomllib.loads(config["capo.toml"])
    for entry in pods(documents)[0]["containers"][0]["env"]:
        name = entry["name"].removeprefix("CAPO_").lower()
        if name in Settings.model_fields and "value" in entry:
            text = entry["value"]
            values[name] = json.loads(text) if text[:1] in "{[" else text
    for mounted in ("template", "tls_cert", "tls_key", "tls_client_ca"):
        values.pop(mounted, None)  # files of the container
    return Settings(**values)


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda p: p.stem if p else "defaults")
def test_every_set_of_values_renders_to_what_kubernetes_takes(
    chart: Chart, path: Path | None
) -> None:
    documents = render(chart, values_of(path))
    assert {"Deployment", "LeaderWorkerSet"} & {document["kind"] for document in documents}
    for document in documents:
        for version in VERSIONS:
            if document["kind"] not in CUSTOM:
                kubernetes_validate.validate(document, version, strict=True)
        assert len(document["metadata"]["name"]) <= 63
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "rl"
    settings_of(documents)


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda p: p.stem if p else "defaults")
def test_helm_lints_every_set_of_values(path: Path | None) -> None:
    found = helm_python.lint(CHART, values_of(path), strict=True)
    worse = [m for m in found["messages"] if m["severity"] > 1]  # 1: an icon is recommended
    assert not found["errors"] and not worse, found


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda p: p.stem if p else "defaults")
def test_pods_are_confined(chart: Chart, path: Path | None) -> None:
    documents = render(chart, values_of(path))
    found = pods(documents)
    assert found
    for pod in found:
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not [volume for volume in pod.get("volumes", ()) if "hostPath" in volume]
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert not container["image"].endswith(":latest")
        if pod.get("restartPolicy") != "Never":
            assert pod["containers"][0].keys() >= {"readinessProbe", "livenessProbe"}
            mounts = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
            assert mounts >= {"/tmp", "/dev/shm", "/cache"}
            claimed = {m["name"] for m in pod["containers"][0]["volumeMounts"]}
            assert claimed == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda p: p.stem if p else "defaults")
def test_no_secret_is_written_anywhere(chart: Chart, path: Path | None) -> None:
    documents = render(chart, values_of(path))
    assert "Secret" not in {document["kind"] for document in documents}
    found = pods(documents)
    assert found
    for pod in found:
        for entry in pod["containers"][0].get("env", ()):
            if any(word in entry["name"] for word in ("KEY", "TOKEN", "SECRET")):
                assert entry.keys() == {"name", "valueFrom"} or entry["name"] == "CAPO_TOKENIZERS"


def test_the_judge_gets_its_gpus_and_time_to_load(chart: Chart) -> None:
    documents = render(chart, example("gpu-72b-tensor-parallel"))
    [pod] = [p for p in pods(documents) if p.get("restartPolicy") != "Never"]
    [container] = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    settings = settings_of(documents)
    assert settings.engine_args["tensor_parallel_size"] == 8
    assert settings.engine_args["max_model_len"] == 16384
    assert all(isinstance(value, int) for value in settings.engine_args.values())
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 1800
    assert startup["httpGet"] == {"path": "/health/ready", "port": "http", "scheme": "HTTPS"}
    # Long enough to notice, to drain, and to close the engine.
    assert pod["terminationGracePeriodSeconds"] > settings.drain_seconds + 5
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert "replicas" not in one(documents, "Deployment")["spec"]  # KEDA's to say
    scaled = one(documents, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == one(documents, "Deployment")["metadata"]["name"]
    assert 'service="rl-capo"' in scaled["triggers"][0]["metadata"]["query"]


def test_a_judge_over_several_nodes(chart: Chart) -> None:
    documents = render(chart, example("gpu-multi-node"))
    group = one(documents, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    leader = group["leaderTemplate"]["spec"]["containers"][0]
    assert "ray start --head" in leader["args"][0] and "exec capo serve" in leader["args"][0]
    assert settings_of(documents).engine_args["distributed_executor_backend"] == "ray"
    # Requests reach leaders only; Ray's ports are open between the pods of the release.
    assert one(documents, "Service")["spec"]["selector"]["app.kubernetes.io/component"] == "service"
    labels = group["workerTemplate"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "worker"
    assert len(one(documents, "NetworkPolicy")["spec"]["ingress"]) == 2


def test_a_changed_template_or_setting_restarts_the_pods(chart: Chart) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = one(render(chart, values), "Deployment")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    sums = [
        checksum(values)
        for values in ({}, {"judgeTemplate": "x"}, {"config": {"max_steps": 7}},
                       {"config": {"engine_args": {"seed": 1}}})
    ]  # fmt: skip
    assert len(set(sums)) == 4 and checksum({}) == sums[0]


def test_templates_and_rules_arrive_as_they_were_written(chart: Chart) -> None:
    documents = render(chart, example("everything"))
    config = next(d for d in documents if d["kind"] == "ConfigMap")
    assert config["data"]["judge.j2"] == example("everything")["judgeTemplate"]
    documents = render(chart, example("gpu-72b-tensor-parallel"))
    rules = yaml.safe_load((ROOT / "deploy/prometheus/capo.rules.yml").read_text())
    assert one(documents, "PrometheusRule")["spec"] == rules
    [board] = [d for d in documents if d["metadata"]["name"] == "rl-capo-dashboard"]
    grafana = json.loads((ROOT / "deploy/grafana/capo.json").read_text())
    assert json.loads(board["data"]["capo.json"]) == grafana


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 2}, "replicas"),
        ({"config": {"max_stepz": 2}}, "max_stepz"),
        ({"config": {"api_keys": ["secret"]}}, "api_keys"),
        ({"config": {"engine": "other"}}, "engine"),
        ({"autoscaling": {"kind": "vpa"}}, "kind"),
        ({"gpu": {"count": "two"}}, "count"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"gpu": {"enabled": True, "count": 2}}, "must be equal"),
        ({"multiNode": {"enabled": True}}, "must be equal"),
        (
            {"multiNode": {"enabled": True}, "parallel": {"tensor": 2}, "autoscaling": {"kind": "hpa"}},
            "single-node",
        ),
        ({"image": {"repository": ""}}, "image.repository is not set.*--set image.repository="),
        ({"image": {"repository": "registry.example.com/capo-credit"}}, "image.repository is not set"),
        ({"modelCache": {"persistent": True}, "replicaCount": 2}, r"ReadWriteOnce\], and up to 2 pods"),
        ({"modelCache": {"persistent": True}, "autoscaling": {"kind": "keda"}}, "up to 4 pods"),
        (
            {"modelCache": {"persistent": True}, "multiNode": {"enabled": True}, "parallel": {"tensor": 2}},
            "up to 2 pods.*existingClaim",
        ),
    ],
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(
    chart: Chart, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(HelmError, match=said):
        render(chart, values)


def test_the_schema_and_the_readme_are_what_the_values_say() -> None:
    """`python tools/chart.py` and `python tools/dashboard.py` write them."""
    tool = importlib.import_module("chart")
    assert (CHART / "values.schema.json").read_text() == tool.schema()
    assert (CHART / "README.md").read_text() == tool.readme()
    rows = [line.split(" | ") for line in tool.readme().splitlines() if line.startswith("| `")]
    assert len(rows) > 90 and not [row[0] for row in rows if row[-1].strip(" |") == ""]
    board = importlib.import_module("dashboard")
    assert (ROOT / "deploy/grafana/capo.json").read_text() == board.text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notes_wait_for_what_there_is_and_say_how_to_check_it(chart: Chart, path: Path) -> None:
    values = values_of(path)
    files = chart.render(values=values, name="rl", namespace="training")
    [notes] = [text for name, text in files.items() if name.endswith("NOTES.txt")]
    documents = render(chart, values)
    there = {(each["kind"].lower(), each["metadata"]["name"]) for each in documents}
    named = re.findall(r"(deployment|leaderworkerset|service)/(\S+)", notes)
    assert len(named) == 2 and set(named) <= there
    port = one(documents, "Service")["spec"]["ports"][0]["port"]
    assert f"port-forward service/{named[1][1]} 8000:{port}" in notes
    [scheme] = re.findall(r"capo doctor --url (https?)://127.0.0.1:8000", notes)
    assert scheme == ("https" if values.get("secrets", {}).get("tls") else "http")
    assert ("CAPO_API_KEY=" in notes) == bool(values.get("secrets", {}).get("apiKeys"))
    selected = re.findall(r"logs -l (\S+)", notes)[0].split(",")
    labels = dict(pair.split("=") for pair in selected)
    assert labels.items() <= pod_labels(documents).items()


def pod_labels(documents: list[dict[str, Any]]) -> dict[str, Any]:
    for document in documents:
        if document["kind"] == "Deployment":
            return dict(document["spec"]["template"]["metadata"]["labels"])
        if document["kind"] == "LeaderWorkerSet":
            group = document["spec"]["leaderWorkerTemplate"]
            return dict(group["leaderTemplate"]["metadata"]["labels"])
    raise AssertionError("no pods")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_name_an_image_that_must_be_replaced(chart: Chart, path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert values["image"]["repository"] and (values["image"].keys() & {"tag", "digest"})
    if path.stem != "everything":  # which is for tests
        with pytest.raises(HelmError, match=r"docs/docker\.md"):
            chart.render(values=values, name="rl", namespace="training")


def test_one_replica_can_be_updated_with_the_cache_that_default_classes_bind(chart: Chart) -> None:
    """A new pod cannot mount a ReadWriteOnce claim on another node while the old pod runs."""
    documents = render(chart, example("gpu-7b"))
    claim = one(documents, "PersistentVolumeClaim")["spec"]
    assert claim["accessModes"] == ["ReadWriteOnce"] and "storageClassName" not in claim
    assert one(documents, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    for cache in (
        {},
        {"existingClaim": "mine"},
        {"persistent": True, "accessModes": ["ReadWriteMany"]},
    ):
        deployment = one(render(chart, {"modelCache": cache, "replicaCount": 2}), "Deployment")
        assert deployment["spec"]["strategy"] == rolling
    given = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    documents = render(chart, {"modelCache": {"persistent": True}, "strategy": given})
    assert one(documents, "Deployment")["spec"]["strategy"] == given


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_may_load_what_they_name_from_the_hub(chart: Chart, path: Path) -> None:
    values = values_of(path)
    config = values["config"]
    named = [config.get("model"), config.get("tokenizer"), *config.get("tokenizers", {}).values()]
    if any(name and "/" in name for name in named):
        egress = one(render(chart, values), "NetworkPolicy")["spec"]["egress"]
        ports = [port["port"] for rule in egress if "to" not in rule for port in rule["ports"]]
        assert 443 in ports, "the download would be refused"
    if "tokenizer" in config:
        assert config["prompt_form"] == "tokens", "stated, so that a reader sees what is sent"


def test_the_values_of_the_guide_render(chart: Chart) -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    [text] = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    values = yaml.safe_load(text.replace("sha256:...", f"sha256:{'0' * 64}"))
    documents = render(chart, values | {"image": values["image"] | IMAGE["image"]})
    assert one(documents, "Deployment")["spec"]["replicas"] == 2
    assert one(documents, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_every_secret_that_the_examples_name_is_made_in_the_guide() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    made = {
        name: set(re.findall(r"--from-(?:file|literal)=([\w.]+)", line))
        for name, line in re.findall(r"create secret \w+ (\S+) (.*)", page)
    }
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["secrets"]
    for path in EXAMPLES:
        for kind, secret in values_of(path).get("secrets", {}).items():
            assert secret["name"] in made, secret
            if "key" in defaults[kind]:
                assert made[secret["name"]] == {defaults[kind]["key"]}
