"""The template of each size of the stack on AWS, synthesized without an account.

Runs in an environment of its own: ``make aws-check``. Without it the tests are skipped.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

aws_cdk = pytest.importorskip(
    "aws_cdk", reason="infra/aws has an environment of its own: make aws-check builds it"
)
from aws_cdk import assertions  # noqa: E402

from infra.aws import app as aws  # noqa: E402
from infra.aws import check_deployment, services  # noqa: E402
from infra.aws.sizes import DEVELOPMENT, PRODUCTION, SIZES, Size  # noqa: E402
from infra.aws.storage import DATABASES  # noqa: E402

ROOT = Path(__file__).parents[3]
CERTIFICATE = "arn:aws:acm:us-east-1:111111111111:certificate/example"
EMAIL = "owner@example.com"
Template = dict[str, Any]


def synthesize(size: Size, without: tuple[str, ...] = ()) -> Any:
    certificate = CERTIFICATE if size.protected else None
    app = aws_cdk.App(context=aws.FLAGS)
    stack = aws.build_stack(app, size, "1.2.3", EMAIL, certificate, without)
    return assertions.Template.from_stack(stack)


@pytest.fixture(scope="module")
def templates() -> dict[str, Any]:
    return {name: synthesize(size) for name, size in SIZES.items()}


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> Size:
    return SIZES[request.param]


@pytest.fixture
def template(templates: dict[str, Any], size: Size) -> Any:
    return templates[size.name]


def resources(template: Any, kind: str) -> list[Template]:
    return [each["Properties"] for each in template.find_resources(kind).values()]


def containers(template: Any) -> dict[str, Template]:
    tasks = resources(template, "AWS::ECS::TaskDefinition")
    found = [container for task in tasks for container in task["ContainerDefinitions"]]
    return {container["Name"]: container for container in found}


def test_the_database_is_private_encrypted_and_of_its_size(template: Any, size: Size) -> None:
    (database,) = resources(template, "AWS::RDS::DBInstance")
    assert database["PubliclyAccessible"] is False
    assert database["StorageEncrypted"] is True
    assert database["MultiAZ"] == (size is PRODUCTION)
    assert database["DeletionProtection"] == (size is PRODUCTION)
    assert database["DBInstanceClass"] == f"db.{size.database}"


def test_redis_is_encrypted_and_asks_for_a_password(template: Any) -> None:
    (redis,) = resources(template, "AWS::ElastiCache::ReplicationGroup")
    assert redis["AtRestEncryptionEnabled"] and redis["TransitEncryptionEnabled"]
    assert "resolve:secretsmanager" in json.dumps(redis["AuthToken"])


def test_only_the_balancer_with_tls_is_open_to_everybody(template: Any, size: Size) -> None:
    groups = resources(template, "AWS::EC2::SecurityGroup")
    rules = [rule for group in groups for rule in group.get("SecurityGroupIngress", [])]
    rules += resources(template, "AWS::EC2::SecurityGroupIngress")
    ports = {rule["FromPort"] for rule in rules if rule.get("CidrIp") == "0.0.0.0/0"}
    assert ports == ({443} if size is PRODUCTION else set())
    (balancer,) = resources(template, "AWS::ElasticLoadBalancingV2::LoadBalancer")
    expected = "internet-facing" if size is PRODUCTION else "internal"
    assert balancer["Scheme"] == expected


def test_no_bucket_is_public_and_each_asks_for_tls(template: Any) -> None:
    buckets = resources(template, "AWS::S3::Bucket")
    assert len(buckets) == 2
    assert all(all(b["PublicAccessBlockConfiguration"].values()) for b in buckets)
    policies = json.dumps(resources(template, "AWS::S3::BucketPolicy"))
    assert policies.count("aws:SecureTransport") == len(buckets)


def test_no_service_has_a_public_address(template: Any) -> None:
    for service in resources(template, "AWS::ECS::Service"):
        network = service["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert network["AssignPublicIp"] == "DISABLED"


def test_the_services_and_the_single_tasks_are_there(template: Any) -> None:
    assert len(resources(template, "AWS::ECS::Service")) == 4
    assert set(containers(template)) == {
        "Api", "Mlflow", "Prefect", "Worker", "Databases", "Keys", "Bootstrap"
    }  # fmt: skip


def test_containers_are_read_only_and_not_root(template: Any) -> None:
    for container in containers(template).values():
        assert container["ReadonlyRootFilesystem"] is True
        assert container["User"] == "10001"
        writable = {mount["ContainerPath"] for mount in container["MountPoints"]}
        assert writable == {"/tmp", "/app/var"}  # noqa: S108


def test_every_variable_of_a_command_reaches_its_container(template: Any) -> None:
    for container in containers(template).values():
        given = {each["Name"] for each in container["Environment"]}
        secret = {each["Name"] for each in container.get("Secrets", [])}
        assert not [name for name in given if "PASSWORD" in name]
        command = json.dumps(container["Command"])
        assert set(re.findall(r"\$([A-Z_]+)", command)) <= given | secret
        assert secret, "every container reads a database"


def test_every_setting_of_a_container_exists(template: Any) -> None:
    """Read as text, because this environment has no pydantic."""
    known = set(re.findall(r"^(ONTIME_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for container in containers(template).values():
        text = json.dumps([container["Environment"], container["Command"]])
        used = set(re.findall(r"\bONTIME_(?!PASSWORD)[A-Z_]+\b", text))
        assert used <= known


def test_the_api_has_every_address_and_production_rules(template: Any) -> None:
    api = containers(template)["Api"]
    environment = {each["Name"]: each["Value"] for each in api["Environment"]}
    assert environment["ONTIME_ENVIRONMENT"] == "production"
    for name in services.URLS:
        assert f"export {name}=" in json.dumps(api["Command"])


def test_the_api_scales_between_the_sizes_numbers(template: Any, size: Size) -> None:
    (target,) = resources(template, "AWS::ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == size.api_tasks
    assert len(resources(template, "AWS::ApplicationAutoScaling::ScalingPolicy")) == 1


def test_a_first_deployment_starts_no_service_as_in_the_emulator(template: Any, size: Size) -> None:
    """Nothing scales it up, and a service that needs another one is started after it."""
    without = ("Api", "Mlflow")
    found = synthesize(size, without)
    kind = "AWS::ECS::Service"
    expected = check_deployment.without(template.to_json(), without)["Resources"]
    services_without = {n: each for n, each in expected.items() if each["Type"] == kind}
    assert found.find_resources(kind) == services_without
    assert not resources(found, "AWS::ApplicationAutoScaling::ScalableTarget")
    (worker,) = (each for name, each in services_without.items() if name.startswith("Worker"))
    for needed in ("MlflowService", "PrefectService"):
        assert any(name.startswith(needed) for name in worker["DependsOn"])
    with pytest.raises(ValueError, match="Other"):
        synthesize(size, ("Other",))


def test_the_key_of_the_flows_is_the_one_that_a_task_stores(template: Any) -> None:
    found = containers(template)
    assert "serving.keys create --given" in json.dumps(found["Keys"]["Command"])
    keys = {
        name: [
            each["ValueFrom"] for each in found[name]["Secrets"] if each["Name"] == "API_PASSWORD"
        ]
        for name in ("Keys", "Worker", "Bootstrap")
    }
    assert len({json.dumps(value) for value in keys.values()}) == 1 and keys["Keys"]


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def statements(template: Any) -> Iterator[Template]:
    for policy in resources(template, "AWS::IAM::Policy"):
        yield from policy["PolicyDocument"]["Statement"]


def test_no_role_may_do_everything_or_reach_everything(template: Any) -> None:
    without_resource = {"ecr:GetAuthorizationToken"}  # AWS defines no resource for it
    assert list(statements(template))
    for statement in statements(template):
        actions = set(as_list(statement["Action"]))
        assert not [action for action in actions if action == "*" or action.endswith(":*")]
        if statement["Resource"] == "*":
            assert actions <= without_resource, actions


def test_only_mlflow_reaches_the_artifacts_and_only_the_worker_the_tables(template: Any) -> None:
    written = {
        name[: name.index("Task")]: set(re.findall(r'"/(\w+)/\*"', json.dumps(policy)))
        for name, policy in template.find_resources("AWS::IAM::Policy").items()
        if "s3:PutObject" in json.dumps(policy)
    }
    assert written == {"Mlflow": {"mlflow"}, "Worker": {services.TABLES}}


def test_the_worker_keeps_tables_below_its_prefix_and_deletes_none(template: Any) -> None:
    environment = {
        each["Name"]: each["Value"] for each in containers(template)["Worker"]["Environment"]
    }
    _, (*_, last) = environment["ONTIME_TABLES_URL"]["Fn::Join"]
    assert last == f"/{services.TABLES}"
    policies = template.find_resources("AWS::IAM::Policy")
    (policy,) = (each for name, each in policies.items() if name.startswith("WorkerTaskTaskRole"))
    granted = {
        action
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        for action in as_list(statement["Action"])
    }
    s3 = {action for action in granted if action.startswith("s3:")}
    assert s3 == {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}


def test_logs_are_encrypted_and_end(template: Any) -> None:
    groups = resources(template, "AWS::Logs::LogGroup")
    assert groups and all("KmsKeyId" in group and "RetentionInDays" in group for group in groups)


def test_every_alarm_reaches_the_topic_and_the_budget_covers_the_estimate(
    template: Any, size: Size
) -> None:
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    own = [alarm for alarm in alarms if alarm.get("TreatMissingData") == "notBreaching"]
    assert len(own) == 7 and all(alarm["AlarmActions"] for alarm in own)
    (budget,) = resources(template, "AWS::Budgets::Budget")
    assert size.monthly < budget["Budget"]["BudgetLimit"]["Amount"] < 1.5 * size.monthly
    (subscription,) = resources(template, "AWS::SNS::Subscription")
    assert subscription["Endpoint"] == EMAIL


def test_production_without_tls_is_rejected() -> None:
    with pytest.raises(ValueError, match="certificate"):
        aws.build_stack(aws_cdk.App(), PRODUCTION, "1.2.3", EMAIL)


def test_production_costs_more_in_every_item_that_grows() -> None:
    cheap, dear = DEVELOPMENT.costs(), PRODUCTION.costs()
    assert all(cheap[item] <= dear[item] for item in cheap)
    assert DEVELOPMENT.monthly < PRODUCTION.monthly


def test_the_task_that_creates_databases_is_python_and_covers_each() -> None:
    compile(services.CREATE_DATABASES.read_text(), "create_databases", "exec")
    urls = services.URLS | services.MLFLOW_URLS | services.PREFECT_URLS
    named = {url.rsplit("/", 1)[1] for url in urls.values() if url.startswith("postgresql")}
    assert named == set(DATABASES)


def test_github_may_only_take_the_roles_that_the_bootstrap_made() -> None:
    stack = aws.build_github_stack(aws_cdk.App(), "owner/name")
    template = assertions.Template.from_stack(stack)
    for statement in statements(template):
        assert statement["Action"] == "sts:AssumeRole"
        assert "role/cdk-*" in json.dumps(statement["Resource"])
    trusted = [
        role["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]["StringEquals"]
        for role in resources(template, "AWS::IAM::Role")
    ]
    subjects = {condition[f"{aws.GITHUB}:sub"] for condition in trusted}
    assert subjects == {"repo:owner/name:pull_request", "repo:owner/name:environment:aws"}
    workflow = (ROOT / ".github" / "workflows" / "aws.yml").read_text()
    assert f"environment: {aws.DEPLOY_ENVIRONMENT}\n" in workflow
