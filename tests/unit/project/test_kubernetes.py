"""deploy/k8s against the Kubernetes API's own schemas, and against what the image promises.

KEDA's ScaledObject is no part of the Kubernetes API. KEDA, below, is a small schema of our own for
the fields that we use; the manifest was also tried by hand against KEDA's definition.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from nextclick.shared.runtime.settings import (
    PREFIX,
    KafkaSettings,
    WorkerSettings,
    environment_names,
)

TREE = Path(__file__).parents[3] / "deploy" / "k8s"
BASE, EXAMPLE = TREE / "base", TREE / "overlays" / "example"
RELATED = TREE / "components" / "related"
API_VERSIONS = ("1.31", kubernetes_validate.latest_version())

KEDA = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "spec": {
            "type": "object",
            "required": ["scaleTargetRef", "triggers"],
            "additionalProperties": False,
            "properties": {
                "scaleTargetRef": {
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {"name": {"type": "string"}},
                },
                "minReplicaCount": {"type": "integer", "minimum": 0},
                "maxReplicaCount": {"type": "integer", "minimum": 1},
                "pollingInterval": {"type": "integer"},
                "cooldownPeriod": {"type": "integer"},
                "advanced": {"type": "object"},
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["type", "metadata"],
                        "additionalProperties": False,
                        "properties": {
                            "type": {"const": "kafka"},
                            "metadata": {
                                "required": ["bootstrapServers", "consumerGroup", "topic"],
                                "additionalProperties": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def files(folder: Path) -> list[dict[str, Any]]:
    """Every object in the files that a kustomization lists from its own folder."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    found = []
    for name in listed:
        if name.endswith(".yaml"):
            found += list(yaml.safe_load_all((folder / name).read_text()))
    return found


OBJECTS = files(BASE) + files(EXAMPLE)
"""What the example makes."""
ALL_OBJECTS = OBJECTS + files(RELATED)


def name_of(thing: dict[str, Any]) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def check(thing: dict[str, Any]) -> None:
    if thing["kind"] == "ScaledObject":
        jsonschema.validate(thing, KEDA)
        return
    for version in API_VERSIONS:
        kubernetes_validate.validate(thing, version, strict=True)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template."""
    for thing in ALL_OBJECTS:
        if thing["kind"] == "Deployment":
            yield name_of(thing), thing["spec"]["template"]
        if thing["kind"] == "CronJob":
            yield name_of(thing), thing["spec"]["jobTemplate"]["spec"]["template"]


PODS = dict(pods())


@pytest.mark.parametrize("thing", ALL_OBJECTS, ids=name_of)
def test_an_object_is_what_its_kind_says(thing: dict[str, Any]) -> None:
    check(thing)


def test_a_wrong_object_is_refused() -> None:
    (worker,) = [thing for thing in OBJECTS if name_of(thing) == "Deployment/nextclick-worker"]
    wrong = json.loads(json.dumps(worker))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


def test_every_file_is_listed() -> None:
    for folder in (BASE, EXAMPLE, RELATED):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        here = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert here == {name for name in listed if name.endswith(".yaml")}


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=["base", "example"])
def test_kustomize_builds_it(folder: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl for the overlay's patches; the files were checked one by one")
    built = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    things = list(yaml.safe_load_all(built.stdout))
    for thing in things:
        check(thing)
        assert thing["kind"] == "Namespace" or thing["metadata"]["namespace"] == "nextclick"
    wanted = OBJECTS if folder == EXAMPLE else files(BASE)
    assert {name_of(thing) for thing in things} == {name_of(thing) for thing in wanted}
    if folder == EXAMPLE:
        by_name = {name_of(thing): thing for thing in things}
        brokers = by_name["ConfigMap/nextclick-settings"]["data"][
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"
        ]
        (trigger,) = by_name["ScaledObject/nextclick-worker"]["spec"]["triggers"]
        assert trigger["metadata"]["bootstrapServers"] == brokers
        assert "image: registry.example.com/nextclick:0.1.0" in built.stdout
        assert "image: nextclick\n" not in built.stdout


def test_an_overlay_asks_for_related_items(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl; the component's files were checked one by one")
    shutil.copytree(TREE, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "example"
    kustomization = (overlay / "kustomization.yaml").read_text()
    asked = kustomization.replace("# components:", "components:")
    assert asked != kustomization
    (overlay / "kustomization.yaml").write_text(asked)
    built = subprocess.run(
        [kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    things = {name_of(thing): thing for thing in yaml.safe_load_all(built.stdout)}
    assert things.keys() == {name_of(thing) for thing in ALL_OBJECTS}
    related = things["Deployment/nextclick-related"]
    check(related)
    assert related["metadata"]["namespace"] == "nextclick"
    (container,) = related["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/nextclick:0.1.0"


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_more_rights_than_in_compose(name: str) -> None:
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001  # of the Dockerfile
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["tmp"] == "/tmp"
    assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_a_pods_settings_are_settings(name: str) -> None:
    """Service links would put NEXTCLICK_API_SERVICE_HOST there, and no process would start."""
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    assert spec["enableServiceLinks"] is False
    (settings,) = [thing["data"] for thing in OBJECTS if thing["kind"] == "ConfigMap"]
    given = {*settings, *(entry["name"] for entry in container.get("env", []))}
    assert given <= set(environment_names())
    assert not {f"{PREFIX}REDIS__URL", f"{PREFIX}KAFKA__CLIENT_CONFIG"} & given  # of the Secret
    assert {"secretRef": {"name": "nextclick-logins"}} in container["envFrom"]


def test_probes_ask_where_the_process_answers() -> None:
    for name in (
        f"Deployment/nextclick-{part}" for part in ("worker", "collector", "api", "related")
    ):
        (container,) = PODS[name]["spec"]["containers"]
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        settings = {entry["name"]: entry["value"] for entry in container["env"]}
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            asked = container[probe]["httpGet"]
            assert asked["path"] == path
            assert ports[asked["port"]] in settings.values()
            assert PODS[name]["metadata"]["annotations"]["prometheus.io/port"] in ports.values()
            assert container[probe]["timeoutSeconds"] > 2  # health.WAIT_SECONDS


def test_workers_scale_by_the_lag_of_their_group_up_to_the_partitions() -> None:
    (scaled,) = [thing["spec"] for thing in OBJECTS if thing["kind"] == "ScaledObject"]
    (trigger,) = [t["metadata"] for t in scaled["triggers"]]
    assert trigger["consumerGroup"] == WorkerSettings().group_id
    assert trigger["topic"] == KafkaSettings().clicks_topic
    assert scaled["maxReplicaCount"] == KafkaSettings().partitions
    assert f"Deployment/{scaled['scaleTargetRef']['name']}" in PODS


def test_selectors_select() -> None:
    labels = [template["metadata"]["labels"] for template in PODS.values()]
    for thing in ALL_OBJECTS:
        spec = thing.get("spec") or {}
        if thing["kind"] == "Service":
            wanted = spec["selector"]
        elif thing["kind"] in ("PodDisruptionBudget", "Deployment"):
            wanted = spec["selector"]["matchLabels"]
        elif thing["kind"] == "NetworkPolicy":
            wanted = spec["podSelector"]["matchLabels"]
        else:
            continue
        assert any(wanted.items() <= these.items() for these in labels), name_of(thing)
    claims = {name_of(thing) for thing in OBJECTS if thing["kind"] == "PersistentVolumeClaim"}
    for template in PODS.values():
        for volume in template["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert f"PersistentVolumeClaim/{claim}" in claims


def test_the_trainer_runs_alone_and_once_on_what_the_collector_logs() -> None:
    (cron,) = [thing["spec"] for thing in OBJECTS if thing["kind"] == "CronJob"]
    assert cron["concurrencyPolicy"] == "Forbid"
    (container,) = PODS["CronJob/nextclick-trainer"]["spec"]["containers"]
    assert container["args"] == ["trainer", "--once", "--no-collect", "--items"]
    (collector,) = PODS["Deployment/nextclick-collector"]["spec"]["containers"]
    mount = {"name": "event-log", "mountPath": "/data/event_log"}
    assert mount in container["volumeMounts"]
    assert mount in collector["volumeMounts"]
