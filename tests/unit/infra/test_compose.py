"""docker-compose.yml and the files that it mounts, without Docker; `make e2e` starts it."""

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
IF_SET = re.compile(r"\$\{(\w+):\+yes\}")
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
RULES = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "infra/grafana/dashboards/ontime.json").read_text())


def test_every_image_is_built_here_or_pinned_to_a_version() -> None:
    foreign = {service["image"] for service in SERVICES.values()} - OWN
    assert [
        image for image in foreign if not re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.]*", image)
    ] == []
    dockerfile = (ROOT / "infra/Dockerfile").read_text()
    stages = set(re.findall(r" AS ([\w-]+)", dockerfile))
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - stages
    assert [base for base in bases if not re.search(r":\d+\.\d+\.\d+", base)] == []


def test_no_port_is_open_to_others() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_every_long_running_service_has_a_health_check_and_is_restarted() -> None:
    one_shot = {"bootstrap", "replay"}
    for name in SERVICES.keys() - one_shot:
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["restart"] == "unless-stopped", name
        assert SERVICES[name]["init"], name


def test_a_service_has_no_right_that_it_does_not_need() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    beyond = {name for name, each in SERVICES.items() if "cap_add" in each or not each["read_only"]}
    assert beyond == {"s3"}


def test_no_password_is_in_a_list_of_processes() -> None:
    """Arguments are; a shell's own commands and the environment are not."""
    for name, service in SERVICES.items():
        started = [service.get("command", ""), service.get("healthcheck", {}).get("test", "")]
        words = [word for each in started for word in ([each] if isinstance(each, str) else each)]
        variables = re.findall(r"\$+\{?\w*(?:PASSWORD|SECRET|AUTH|KEY)\w*", "\n".join(words))
        heredoc = ["$$REDISCLI_AUTH"] if name == "redis" else []
        assert variables == heredoc, name
    script = (ROOT / "infra/postgres/databases.sh").read_text()
    assert not re.search(r"\$\{?\w*PASSWORD", script)


def test_mlflow_and_prefect_ask_for_a_password_that_their_clients_have() -> None:
    mlflow, prefect = SERVICES["mlflow"], SERVICES["prefect"]["environment"]
    assert "--app-name=basic-auth" in mlflow["command"]
    password = mlflow["environment"]["MLFLOW_AUTH_ADMIN_PASSWORD"]
    login = prefect["PREFECT_SERVER_API_AUTH_STRING"]
    assert DEVELOPMENT_SECRET in password and DEVELOPMENT_SECRET in login
    for name in ("api", "worker", "bootstrap", "replay"):
        assert SERVICES[name]["environment"]["MLFLOW_TRACKING_PASSWORD"] == password, name
    for name in ("worker", "bootstrap", "replay"):
        assert SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"] == login, name


def app_env(name: str) -> dict[str, str]:
    """The ONTIME_* variables of a service, with every default filled in."""
    environment = SERVICES[name]["environment"].items()
    filled = {key: VARIABLE.sub(r"\2", IF_SET.sub("", str(value))) for key, value in environment}
    return {key: value for key, value in filled.items() if key.startswith("ONTIME_")}


@pytest.mark.parametrize("name", ["api", "worker", "bootstrap", "replay"])
def test_its_variables_are_settings_and_its_passwords_for_development_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in app_env(name).items():
        monkeypatch.setenv(key, value)
    settings = Settings(_env_file=None)
    addresses = (settings.prediction_db_url, settings.feast_registry_url, settings.redis_url)
    assert all(DEVELOPMENT_SECRET in address for address in addresses)
    names = {key.removeprefix("ONTIME_").lower() for key in app_env(name)}
    assert names <= settings.model_fields_set
    monkeypatch.setenv("ONTIME_ENVIRONMENT", "production")
    with pytest.raises(ValueError, match="in production no address or key contains"):
        Settings(_env_file=None)


def test_production_knows_of_every_default_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    defaults = {name for name, value in VARIABLE.findall(text) if DEVELOPMENT_SECRET in value}
    in_our_addresses = {
        name
        for key, value in SERVICES["api"]["environment"].items()
        for name, default in VARIABLE.findall(str(value))
        if DEVELOPMENT_SECRET in default and key.startswith("ONTIME_")  # which `Settings` reads
    }
    checked = set(IF_SET.findall(SERVICES["api"]["environment"]["ONTIME_PASSWORDS_SET"]))
    assert defaults == in_our_addresses | checked


def test_every_variable_that_compose_reads_is_listed() -> None:
    listed = (ROOT / ".env.example").read_text()
    read = set(re.findall(r"\$\{(\w+):", (ROOT / "docker-compose.yml").read_text()))
    assert [name for name in sorted(read) if not re.search(rf"\b{name}=", listed)] == []


def expressions() -> dict[str, str]:
    panels = {
        panel["title"]: " ".join(target["expr"] for target in panel["targets"])
        for panel in DASHBOARD["panels"]
    }
    return panels | {rule["alert"]: rule["expr"] for rule in RULES}


@pytest.mark.parametrize("where", expressions())
def test_every_metric_of_an_expression_is_one_of_the_api(where: str) -> None:
    def samples(metric: Metric) -> set[str]:
        total = {f"{metric.name}_total"} if metric.type == "counter" else set[str]()
        return {metric.name} | total

    known = set[str]().union(*map(samples, Metrics().registry.collect()))
    assert set(re.findall(r"\bontime_\w+", expressions()[where])) <= known


def test_an_alert_states_the_problem_and_the_action() -> None:
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_the_dashboard_queries_the_provisioned_source() -> None:
    sources = yaml.safe_load((ROOT / "infra/grafana/datasources/prometheus.yml").read_text())
    queried = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    assert queried == {source["uid"] for source in sources["datasources"]}
