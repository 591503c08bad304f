"""infra/k8s, rendered by kustomize and validated strictly against the schemas of Kubernetes.

No cluster runs it here, so that its acceptance by one is not tested. The command of the training
job runs here, once for each index.
"""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from socket import socket
from typing import Any

import kubernetes_validate
import numpy as np
import pandas as pd
import pytest
import yaml

from ontime.settings import DEVELOPMENT_SECRET, ROOT, Settings

VERSION = "1.32"
FOLDER = ROOT / "infra" / "k8s"
OVERLAYS = ("overlays/training", "overlays/spark")
Objects = dict[tuple[str, str], dict[str, Any]]  # by kind and name


@cache
def render(folder: str) -> Objects:
    program = next((p for p in ("kubectl", "kustomize") if shutil.which(p)), None)
    if program is None:
        reason = "infra/k8s cannot be rendered without kubectl or kustomize"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    command = ["kubectl", "kustomize"] if program == "kubectl" else ["kustomize", "build"]
    path = FOLDER / folder
    text = subprocess.run([*command, path], check=True, capture_output=True, text=True).stdout
    objects = list(yaml.safe_load_all(text))
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


@pytest.fixture(params=["base", *OVERLAYS])
def rendered(request: pytest.FixtureRequest) -> Objects:
    """The base, which each overlay contains, and the overlays."""
    return render(request.param)


def pods(rendered: Objects) -> dict[str, dict[str, Any]]:
    return {
        name: each["spec"]["template"]["spec"]
        for (kind, name), each in rendered.items()
        if kind in ("Deployment", "Job")
    }


def test_every_object_is_valid_under_its_schema(rendered: Objects) -> None:
    for each in rendered.values():
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_a_misspelt_field_is_found(rendered: Objects) -> None:
    wrong = {**rendered["Deployment", "api"]}
    wrong["spec"] = {**wrong["spec"], "replica": 3}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_no_pod_runs_as_root_or_writes_to_its_image(rendered: Objects) -> None:
    for pod in pods(rendered).values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert ":" in container["image"], "pinned by kustomization.yaml"


def test_every_variable_is_a_setting_and_no_password_is_in_the_files(rendered: Objects) -> None:
    (app_env,) = (each["data"] for (kind, _), each in rendered.items() if kind == "ConfigMap")
    settings = {f"ONTIME_{name.upper()}" for name in Settings.model_fields}
    containers = [container for pod in pods(rendered).values() for container in pod["containers"]]
    names = {*app_env, *(each["name"] for c in containers for each in c.get("env", []))}
    assert {name for name in names if name.startswith("ONTIME_")} <= settings
    assert not any(kind == "Secret" for kind, _ in rendered)
    assert DEVELOPMENT_SECRET not in str(rendered)


def test_only_the_api_can_be_reached_and_by_named_namespaces_only(rendered: Objects) -> None:
    policies = {name: each["spec"] for (kind, name), each in rendered.items() if "Policy" in kind}
    assert policies["default"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    labels = rendered["Deployment", "api"]["spec"]["template"]["metadata"]["labels"]
    (rule,) = policies["api"]["ingress"]
    assert policies["api"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert all(peer["namespaceSelector"]["matchLabels"] for peer in rule["from"])
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]


def test_every_selector_of_the_api_matches_its_pods(rendered: Objects) -> None:
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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_adds_a_job_and_shares_the_volume(overlay: str) -> None:
    base, rendered = render("base"), render(overlay)
    claim = rendered["PersistentVolumeClaim", "var"]["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"], "its pods are on other nodes"
    unchanged = base.keys() - {("PersistentVolumeClaim", "var")}
    assert {key: rendered[key] for key in unchanged} == {key: base[key] for key in unchanged}
    added = rendered.keys() - base.keys()
    (job,) = (rendered[key]["spec"]["template"]["spec"] for key in added if key[0] == "Job")
    volumes = {each["name"]: each for each in job["volumes"]}
    assert volumes["var"]["persistentVolumeClaim"]["claimName"] == "var"


def test_the_spark_job_has_the_engines_setting_and_an_image_with_java() -> None:
    (container,) = pods(render("overlays/spark"))["features"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["ONTIME_ENGINE"] == "spark"
    target = container["image"].split(":")[0].removeprefix("ontime-")
    stage = (ROOT / "infra/Dockerfile").read_text().split(f"FROM pipelines AS {target}\n")[1]
    stage = stage.split("FROM")[0]
    assert "jre" in stage and "pyspark" in stage and stage.rstrip().endswith("USER ontime")


def test_the_training_pods_find_each_other_and_nobody_else_reaches_them() -> None:
    rendered = render("overlays/training")
    job = rendered["Job", "training"]["spec"]
    pod, labels = job["template"]["spec"], job["template"]["metadata"]["labels"]
    service = rendered["Service", pod["subdomain"]]["spec"]
    assert job["completionMode"] == "Indexed", "each pod has an index, and a name with it"
    assert service["clusterIP"] == "None" and service["selector"].items() <= labels.items()
    command = pod["containers"][0]["command"]
    assert f"--nnodes={job['completions']}" in command
    assert job["parallelism"] == job["completions"], "none can start before all run"
    assert f"--master-addr=training-0.{pod['subdomain']}" in command
    assert f"--master-port={service['ports'][0]['port']}" in command
    policy = rendered["NetworkPolicy", "training"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]


@pytest.mark.slow
def test_the_training_command_of_every_index_together_trains_one_model(tmp_path: Path) -> None:
    """As the pods do it, with this machine's address instead of the Service's name."""
    from ontime.models.serialization import TrainedModel
    from ontime.models.shards import write_shard
    from ontime.problem import FEATURE_SPEC

    rng = np.random.default_rng(0)
    values = rng.normal(size=(6_000, len(FEATURE_SPEC.numeric))).astype("float32")
    rows = pd.DataFrame(values, columns=list(FEATURE_SPEC.numeric))
    rows = rows.assign(**dict.fromkeys(FEATURE_SPEC.categorical, "a"))
    chance = 1 / (1 + np.exp(-2 * values[:, :1]))
    (tmp_path / "shards" / "train").mkdir(parents=True)
    for number, part in enumerate((slice(0, 2_000), slice(2_000, 4_000))):
        path = tmp_path / "shards" / "train" / f"{number}.parquet"
        write_shard(path, rows[part], chance[part].repeat(5, axis=1), FEATURE_SPEC)
    test = rows[4_000:].assign(
        label=rng.random(2_000) < chance[4_000:, 0], event_timestamp=pd.Timestamp("2001", tz="UTC")
    )
    test.to_parquet(tmp_path / "shards" / "test.parquet")

    job = render("overlays/training")["Job", "training"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = []
    with ExitStack() as started:
        for index in range(job["completions"]):
            here = {
                "python": sys.executable,
                "--node-rank=$(NODE_RANK)": f"--node-rank={index}",
                "--master-addr=training-0.training": "--master-addr=127.0.0.1",
                "--master-port=29500": f"--master-port={port}",
            }
            process = subprocess.Popen(
                [here.get(word, word) for word in container["command"]],
                cwd=ROOT,
                env=os.environ | {"ONTIME_DATA_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.enter_context(process)
            started.callback(process.kill)
            outputs.append(process)
        first, second = ((p.communicate(timeout=240)[0], p.returncode) for p in outputs)
    assert (first[1], second[1]) == (0, 0), first[0][-2_000:] + second[0][-2_000:]
    assert "log-loss" in first[0] and "log-loss" not in second[0], "rank 0 evaluates and saves"
    scores = TrainedModel.load(tmp_path / "shards" / "model").metadata["scores"]
    assert scores["auc"] > 0.8
