"""What is left out and changed for the emulator; ``make aws-check`` deploys the rest to it."""

import subprocess
from typing import Any

import pytest

from infra.aws import check_deployment
from infra.aws.check_deployment import adapt, named, without
from infra.aws.emulator import fit
from infra.aws.emulator_containers import memory_of

TEMPLATE: dict[str, Any] = {
    "Parameters": {"BootstrapVersion": {"Type": "String"}},
    "Resources": {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "DependsOn": ["Nat", "Vpc"],
            "Properties": {"Rules": [{"CidrIp": {"Fn::GetAtt": ["Vpc", "CidrBlock"]}}]},
        },
        "Nat": {"Type": "AWS::EC2::NatGateway", "Properties": {}},
        "Route": {
            "Type": "AWS::EC2::Route",
            "Properties": {"Via": {"Fn::Join": ["", [{"Ref": "Nat"}]]}},
        },
        "Target": {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "DependsOn": "Group",
            "Properties": {"Id": {"Fn::GetAtt": ["Group", "GroupId"]}},
        },
        "Task": {
            "Type": "AWS::ECS::TaskDefinition",
            "DependsOn": "Route",
            "Properties": {
                "ContainerDefinitions": [{"Secrets": [{"Name": "A", "ValueFrom": {"Ref": "Vpc"}}]}]
            },
        },
    },
}  # fmt: skip


def test_what_the_emulator_lacks_is_left_out_with_what_refers_to_it() -> None:
    fitted, left_out = fit(TEMPLATE)
    assert fitted["Parameters"] == TEMPLATE["Parameters"]
    assert set(fitted["Resources"]) == {"Vpc", "Group", "Task"}
    assert left_out == {
        "AWS::EC2::NatGateway": 1, "AWS::EC2::Route": 1,
        "AWS::ApplicationAutoScaling::ScalableTarget": 1,
    }  # fmt: skip
    assert fitted["Resources"]["Group"]["DependsOn"] == ["Vpc"]
    assert fitted["Resources"]["Task"]["DependsOn"] == []


def test_secrets_are_given_by_arn_and_without_the_excluded_characters() -> None:
    secret = {
        "Type": "AWS::SecretsManager::Secret",
        "Properties": {"GenerateSecretString": {"ExcludePunctuation": True}},
    }
    values: list[Any] = [{"Ref": "Password"}, {"Fn::Join": ["", [{"Ref": "Attached"}, ":field::"]]}]
    secrets = [{"Name": "A", "ValueFrom": value} for value in values]
    task = {
        "Type": "AWS::ECS::TaskDefinition",
        "Properties": {"ContainerDefinitions": [{"Secrets": secrets}]},
    }
    fitted, _ = fit({"Resources": {"Password": secret, "Task": task}})
    generated = fitted["Resources"]["Password"]["Properties"]["GenerateSecretString"]
    assert set("$@/:'") < set(generated["ExcludeCharacters"])
    (container,) = fitted["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    found = [each["valueFrom"] for each in container["Secrets"]]
    assert found == [{"Fn::GetAtt": ["Password", "Id"]}, values[1]]


def test_references_that_the_emulator_cannot_resolve_have_their_values() -> None:
    fitted, _ = fit(TEMPLATE)
    group = fitted["Resources"]["Group"]["Properties"]
    assert group["Rules"] == [{"CidrIp": "10.0.0.0/16"}]
    (container,) = fitted["Resources"]["Task"]["Properties"]["ContainerDefinitions"]
    assert container["Secrets"] == [{"name": "A", "valueFrom": {"Ref": "Vpc"}}]
    task = TEMPLATE["Resources"]["Task"]["Properties"]
    assert "Name" in task["ContainerDefinitions"][0]["Secrets"][0], "the given one is unchanged"


SERVICES: dict[str, Any] = {
    "Resources": {
        "ApiService1A": {"Type": "AWS::ECS::Service", "Properties": {"DesiredCount": 2}},
        "ApiServiceGroup2B": {"Type": "AWS::EC2::SecurityGroup"},
        "WorkerService3C": {"Type": "AWS::ECS::Service", "Properties": {"DesiredCount": 1}},
        "MlflowTask4D": {
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": {
                "Memory": "1024",
                "ContainerDefinitions": [{"Name": "Mlflow", "Environment": []}],
            },
        },
        "WorkerTask5E": {
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": {
                "Memory": "6144",
                "ContainerDefinitions": [
                    {"Name": "Worker", "Environment": [], "Command": ["redis:6379,ssl=true,x=y"]}
                ],
            },
        },
    }
}  # fmt: skip


def test_mlflow_and_the_worker_get_keys_and_redis_keeps_tls() -> None:
    resources = adapt(SERVICES)["Resources"]
    (mlflow,) = resources["MlflowTask4D"]["Properties"]["ContainerDefinitions"]
    (worker,) = resources["WorkerTask5E"]["Properties"]["ContainerDefinitions"]
    for container in (mlflow, worker):
        assert {each["Name"] for each in container["Environment"]} == set(check_deployment.KEYS)
    assert worker["Command"] == ["redis:6379,ssl=true,ssl_cert_reqs=none,x=y"]


def test_only_the_named_services_get_no_task() -> None:
    resources = without(SERVICES, ("Api",))["Resources"]
    assert resources["ApiService1A"]["Properties"]["DesiredCount"] == 0
    assert resources["WorkerService3C"]["Properties"]["DesiredCount"] == 1
    assert SERVICES["Resources"]["ApiService1A"]["Properties"]["DesiredCount"] == 2
    with pytest.raises(LookupError, match="MlflowService"):
        without(SERVICES, ("Mlflow",))


def test_a_resource_is_found_by_its_type_in_a_template_and_in_a_stack() -> None:
    assert named(SERVICES["Resources"], "Api", "AWS::ECS::Service") == "ApiService1A"
    created = {"ApiService1A": {"ResourceType": "AWS::ECS::Service"}}
    assert named(created, "Api", "AWS::ECS::Service") == "ApiService1A"
    with pytest.raises(LookupError, match=r"ApiService1A.*WorkerService3C"):
        named(SERVICES["Resources"], "", "AWS::ECS::Service")


def test_a_container_has_the_memory_of_its_task() -> None:
    assert memory_of(SERVICES) == {"Mlflow": "1024", "Worker": "6144"}


@pytest.mark.parametrize("error", [None, FileNotFoundError("docker")])
def test_without_a_docker_engine_it_says_what_was_left_out(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: Any) -> Any:
        if error is not None:
            raise error
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    check_deployment.main("no such file")
    assert "were left out" in capsys.readouterr().out
