"""infra/k8s, rendered by kustomize and validated strictly against the schemas of Kubernetes.

No cluster runs it here, so that its acceptance by one is not tested.
"""

import os
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ontime.settings import DEVELOPMENT_SECRET, ROOT, Settings

VERSION = "1.32"
FOLDER = ROOT / "infra" / "k8s"


@pytest.fixture(scope="module")
def rendered() -> dict[tuple[str, str], dict[str, Any]]:
    """Every object by kind and name."""
    program = next((p for p in ("kubectl", "kustomize") if shutil.which(p)), None)
    if program is None:
        reason = "infra/k8s cannot be rendered without kubectl or kustomize"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    command = ["kubectl", "kustomize"] if program == "kubectl" else ["kustomize", "build"]
    text = subprocess.run([*command, FOLDER], check=True, capture_output=True, text=True).stdout
    objects = list(yaml.safe_load_all(text))
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def pods(rendered: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: each["spec"]["template"]["spec"]
        for (kind, name), each in rendered.items()
        if kind in ("Deployment", "Job")
    }


def test_every_object_is_valid_under_its_schema(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for each in rendered.values():
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_a_misspelt_field_is_found(rendered: dict[tuple[str, str], dict[str, Any]]) -> None:
    wrong = {**rendered["Deployment", "api"]}
    wrong["spec"] = {**wrong["spec"], "replica": 3}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_no_pod_runs_as_root_or_writes_to_its_image(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for pod in pods(rendered).values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert ":" in container["image"], "pinned by kustomization.yaml"


def test_every_variable_is_a_setting_and_no_password_is_in_the_files(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    (app_env,) = (each["data"] for (kind, _), each in rendered.items() if kind == "ConfigMap")
    settings = {f"ONTIME_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in app_env if name.startswith("ONTIME_")} <= settings
    assert not any(kind == "Secret" for kind, _ in rendered)
    assert DEVELOPMENT_SECRET not in str(rendered)


def test_only_the_api_can_be_reached_and_by_named_namespaces_only(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    policies = {name: each["spec"] for (kind, name), each in rendered.items() if "Policy" in kind}
    assert policies["default"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    labels = rendered["Deployment", "api"]["spec"]["template"]["metadata"]["labels"]
    (rule,) = policies["api"]["ingress"]
    assert policies["api"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert all(peer["namespaceSelector"]["matchLabels"] for peer in rule["from"])
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]


def test_every_selector_of_the_api_matches_its_pods(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    deployment = rendered["Deployment", "api"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    for selector in (
        deployment["selector"]["matchLabels"],
        rendered["Service", "api"]["spec"]["selector"],
        rendered["PodDisruptionBudget", "api"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    scaled = rendered["HorizontalPodAutoscaler", "api"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", "api")
    (container,) = deployment["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
