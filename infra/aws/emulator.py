"""Deploys a synthesized template to MiniStack, an emulator of AWS, and destroys it again.

    .venv/ministack/bin/python -m infra.aws.emulator TEMPLATE...

Shows what the assertions on a template cannot: that CloudFormation finds an order in which every
reference can be resolved, that each task's variables and secrets then exist, and that nothing stays
after the deletion. No container starts here, `infra.aws.check_deployment` starts them.

`LACKING` names the resource types that MiniStack 1.5.33 does not know; they are left out, with the
resources that refer to them. `fit` also works around four of its faults.
"""

import json
import os
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import botocore.exceptions
import botocore.session

LACKING = (
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::Budgets::Budget",
    "AWS::EC2::EIP",
    "AWS::EC2::FlowLog",
    "AWS::EC2::NatGateway",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
)
REGION = "us-east-1"
TIMEOUT_S = 300
ACCOUNT, SECRET_KEY = "000000000000", "test"  # the emulator's own
STACK = "ontime"
Template = dict[str, Any]
Clients = Callable[[str], Any]  # a client of botocore by the name of its service


class DeploymentFailed(RuntimeError):
    """The emulator refused a resource, or what it deployed is not complete."""


def fit(template: Template) -> tuple[Template, Counter[str]]:
    """The template without what the emulator lacks, and how many of each type were left out."""
    resources: Template = template["Resources"]
    left_out = {name for name, each in resources.items() if each["Type"] in LACKING}
    while referring := {
        name for name, each in resources.items()
        if name not in left_out and _refers(each.get("Properties"), left_out)
    }:  # fmt: skip
        left_out |= referring
    kept = {}
    for name, each in resources.items():
        if name in left_out:
            continue
        depends = each.get("DependsOn", [])
        depends = [depends] if isinstance(depends, str) else depends
        kept[name] = {**each, "DependsOn": [one for one in depends if one not in left_out]}
        properties = _without_cidr_attribute(each.get("Properties", {}), resources)
        for container in properties.get("ContainerDefinitions", []):
            # The emulator reads secrets of a template only with the names of the ECS API.
            container["Secrets"] = [
                {"name": secret["Name"], "valueFrom": _by_arn(secret["ValueFrom"], resources)}
                for secret in container.get("Secrets", [])
            ]
        if properties.get("GenerateSecretString", {}).get("ExcludePunctuation"):
            # The emulator excludes the characters that are listed only.
            properties["GenerateSecretString"]["ExcludeCharacters"] = string.punctuation
        kept[name]["Properties"] = properties
    return {**template, "Resources": kept}, Counter(resources[name]["Type"] for name in left_out)


def _refers(node: Any, names: set[str]) -> bool:
    if isinstance(node, dict):
        attribute = node.get("Fn::GetAtt", [None])
        return (
            node.get("Ref") in names
            or attribute[0] in names
            or any(_refers(value, names) for value in node.values())
        )
    return isinstance(node, list) and any(_refers(value, names) for value in node)


def _by_arn(node: Any, resources: Template) -> Any:
    """A reference to a secret is its name in the emulator, and its ARN on AWS."""
    if isinstance(node, dict):
        name = str(node.get("Ref"))
        if resources.get(name, {}).get("Type") == "AWS::SecretsManager::Secret":
            return {"Fn::GetAtt": [name, "Id"]}
        return {key: _by_arn(value, resources) for key, value in node.items()}
    if isinstance(node, list):
        return [_by_arn(value, resources) for value in node]
    return node


def _without_cidr_attribute(node: Any, resources: Template) -> Any:
    """The emulator's network has no attribute CidrBlock; the value stands in the template."""
    if isinstance(node, dict):
        attribute = node.get("Fn::GetAtt", [None, None])
        if attribute[1] == "CidrBlock":
            return resources[attribute[0]]["Properties"]["CidrBlock"]
        return {key: _without_cidr_attribute(value, resources) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_cidr_attribute(value, resources) for value in node]
    return node


@contextmanager
def emulator() -> Iterator[str]:
    """The address of a running emulator, whose state ends with it."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=os.environ
            | {"GATEWAY_PORT": str(port), "IOT_MTLS_PORT": "0", "DOCKER_HOST": "unix:///dev/null"},
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def connect(address: str) -> Clients:
    """Clients of the emulator, once it responds and is prepared as `cdk bootstrap` does."""
    session = botocore.session.get_session()

    def client(service: str) -> Any:
        return session.create_client(
            service,
            region_name=REGION,
            endpoint_url=address,
            aws_access_key_id=ACCOUNT,
            aws_secret_access_key=SECRET_KEY,
        )

    _wait(client("s3").list_buckets)
    client("s3").create_bucket(Bucket="templates")
    version = {"Name": "/cdk-bootstrap/hnb659fds/version", "Value": "30", "Type": "String"}
    client("ssm").put_parameter(**version, Overwrite=True)
    return client


def apply(client: Clients, template: Template, update: bool = False) -> dict[str, Template]:
    """Create or update the stack; returns its resources by their names in the template.

    Raises:
        DeploymentFailed: if a resource was not created.
    """
    stacks = client("cloudformation")
    key = "template.json"
    client("s3").put_object(Bucket="templates", Key=key, Body=json.dumps(template).encode())
    call = stacks.update_stack if update else stacks.create_stack
    # The emulator reads the path of this address only.
    url = f"http://localhost/templates/{key}"
    call(StackName=STACK, TemplateURL=url, Capabilities=["CAPABILITY_IAM"])
    status = _settled(stacks, STACK)
    if status != ("UPDATE_COMPLETE" if update else "CREATE_COMPLETE"):
        events = stacks.describe_stack_events(StackName=STACK)["StackEvents"]
        faults = [
            f"{each['LogicalResourceId']} ({each['ResourceType']}): {each['ResourceStatusReason']}"
            for each in events
            if each["ResourceStatus"].endswith("_FAILED") and "ResourceStatusReason" in each
        ]
        raise DeploymentFailed(f"the stack is {status}: {'; '.join(faults)}")
    created = stacks.describe_stack_resources(StackName=STACK)["StackResources"]
    resources = {each["LogicalResourceId"]: each for each in created}
    if missing := template["Resources"].keys() - resources.keys():
        raise DeploymentFailed(f"these resources were not created: {sorted(missing)}")
    return resources


def destroy(client: Clients) -> None:
    """Delete the stack.

    Raises:
        DeploymentFailed: if it is not deleted, or a cluster is left.
    """
    stacks = client("cloudformation")
    (stack,) = stacks.describe_stacks(StackName=STACK)["Stacks"]
    stacks.delete_stack(StackName=STACK)
    status = _settled(stacks, stack["StackId"])
    if status != "DELETE_COMPLETE" or client("ecs").list_clusters()["clusterArns"]:
        raise DeploymentFailed(f"the stack is {status} after its deletion, or left a cluster")


def deploy(template: Template, address: str) -> Counter[str]:
    """Create the stack, check it, delete it; returns how many resources of each type there were.

    Raises:
        DeploymentFailed: if a resource was not created, or a task lacks a variable or a secret.
    """
    client = connect(address)
    resources = apply(client, template)
    check_tasks(client)
    destroy(client)
    return Counter(each["ResourceType"] for each in resources.values())


def check_tasks(client: Clients) -> None:
    """Raise DeploymentFailed unless every task's variables are texts and its secrets exist."""
    ecs, secrets = client("ecs"), client("secretsmanager")
    for arn in ecs.list_task_definitions()["taskDefinitionArns"]:
        task = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        for container in task["containerDefinitions"]:
            variables = {each["name"]: each["value"] for each in container["environment"]}
            empty = [name for name, value in variables.items() if not value]
            if empty or not container["secrets"]:
                raise DeploymentFailed(f"{container['name']}: empty {empty}, or no secrets")
            for each in container["secrets"]:
                parts = each["valueFrom"].split(":")
                if parts[:3] != ["arn", "aws", "secretsmanager"]:
                    raise DeploymentFailed(f"{container['name']}: {each} is no ARN of a secret")
                value = secrets.get_secret_value(SecretId=":".join(parts[:7]))["SecretString"]
                if len(parts) > 7 and parts[7] not in json.loads(value):
                    raise DeploymentFailed(f"{container['name']}: {each['name']} has no value")


def _settled(stacks: Any, stack: str) -> str:
    """The stack's status, once nothing is in progress."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        status = str(stacks.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"])
        if not status.endswith("IN_PROGRESS"):
            return status
        time.sleep(1)
    raise DeploymentFailed(f"the stack is {status} after {TIMEOUT_S} s")


def _wait(call: Any) -> None:
    """Until the emulator answers."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            call()
            return
        except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def main(paths: list[str]) -> None:
    for path in paths:
        template, left_out = fit(json.loads(Path(path).read_text()))
        with emulator() as address:
            deployed = deploy(template, address)
        print(
            f"{Path(path).name}: {deployed.total()} resources of {len(deployed)} types deployed to "
            f"the emulator and destroyed; {left_out.total()} left out: "
            + ", ".join(f"{n} {name}" for name, n in sorted(left_out.items()))
        )


if __name__ == "__main__":
    main(sys.argv[1:])
