"""docker-compose.yml and what it mounts, read without Docker; `make e2e` brings it up."""

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from ontime.settings import DEVELOPMENT_SECRET, ROOT, Settings
from serving.observability import Metrics

STACK = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
OWN = {"ontime-serving", "ontime-pipelines"}  # built from this commit
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def test_every_image_is_built_here_or_pinned_to_a_version() -> None:
    foreign = {service["image"] for service in SERVICES.values()} - OWN
    assert [
        image for image in foreign if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.]*", image)
    ] == []
    recipe = (ROOT / "infra/Dockerfile").read_text()
    stages = set(re.findall(r" AS ([\w-]+)", recipe))
    bases = set(re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)) - stages
    assert [base for base in bases if not re.search(r":\d+\.\d+\.\d+", base)] == []


def test_no_port_is_open_to_others() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_everything_that_stays_up_has_a_health_check_and_is_started_again() -> None:
    passing = {"bootstrap", "replay"}  # these end
    for name in SERVICES.keys() - passing:
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["restart"] == "unless-stopped", name
        assert SERVICES[name]["init"], name


def test_what_is_ours_writes_only_to_its_volumes() -> None:
    for name, service in SERVICES.items():
        if service["image"] in OWN:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name


def places(name: str) -> dict[str, str]:
    """The ONTIME_* variables of a service, with every default filled in."""
    environment = SERVICES[name]["environment"].items()
    filled = {key: VARIABLE.sub(r"\2", str(value)) for key, value in environment}
    return {key: value for key, value in filled.items() if key.startswith("ONTIME_")}


@pytest.mark.parametrize("name", ["api", "worker", "bootstrap", "replay"])
def test_its_settings_are_ours_and_its_passwords_for_development_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in places(name).items():
        monkeypatch.setenv(key, value)
    settings = Settings(_env_file=None)
    addresses = (settings.log_url, settings.feast_registry_url, settings.redis_url)
    assert all(DEVELOPMENT_SECRET in address for address in addresses)
    assert {
        key.removeprefix("ONTIME_").lower() for key in places(name)
    } <= settings.model_fields_set
    monkeypatch.setenv("ONTIME_ENVIRONMENT", "production")
    with pytest.raises(ValueError, match="in production no address holds the password"):
        Settings(_env_file=None)


def test_every_default_that_compose_reads_is_listed() -> None:
    listed = (ROOT / ".env.example").read_text()
    read = {name for name, _ in VARIABLE.findall((ROOT / "docker-compose.yml").read_text())}
    read -= {"REPLAY_START", "REPLAY_END"}
    assert [name for name in sorted(read) if not re.search(rf"\b{name}=", listed)] == []


def expressions() -> dict[str, str]:
    rules = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads((ROOT / "infra/grafana/dashboards/ontime.json").read_text())
    panels = {panel["title"]: panel for panel in board["panels"]}
    asked = {
        title: " ".join(target["expr"] for target in panel["targets"])
        for title, panel in panels.items()
    }
    return asked | {rule["alert"]: rule["expr"] for rule in rules}


@pytest.mark.parametrize("where", expressions())
def test_every_metric_that_is_asked_for_is_one_of_the_api(where: str) -> None:
    def samples(metric: Metric) -> set[str]:
        total = {f"{metric.name}_total"} if metric.type == "counter" else set[str]()
        return {metric.name} | total

    known = set[str]().union(*map(samples, Metrics().registry.collect()))
    asked = set(re.findall(r"\bontime_\w+", expressions()[where]))
    assert asked <= known


def test_an_alert_says_what_is_wrong_and_what_to_do() -> None:
    groups = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())["groups"]
    for rule in groups[0]["rules"]:
        assert set(rule["annotations"]) == {"summary", "remedy"}, rule["alert"]


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((ROOT / "infra/grafana/datasources/prometheus.yml").read_text())
    board = json.loads((ROOT / "infra/grafana/dashboards/ontime.json").read_text())
    asked = {panel["datasource"]["uid"] for panel in board["panels"]}
    assert asked == {source["uid"] for source in sources["datasources"]}
