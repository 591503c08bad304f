"""Deploys a synthesized template to MiniStack, an emulator of AWS, and destroys it again.

    .venv/ministack/bin/python -m infra.aws.emulator TEMPLATE...

Shows what the assertions on a template cannot: that CloudFormation finds an order in which every
reference can be resolved, that each task's variables and secrets then exist, and that nothing stays
after the deletion. MiniStack runs without the package ``docker``, so that no container starts.

`LACKING` names the resource types that MiniStack 1.5.33 does not know; they are left out, with the
resources that refer to them. `fit` also works around two of its faults.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
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
Template = dict[str, Any]


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
                {"name": secret["Name"], "valueFrom": secret["ValueFrom"]}
                for secret in container.get("Secrets", [])
            ]
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
            env=os.environ | {"GATEWAY_PORT": str(port), "IOT_MTLS_PORT": "0"},
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def deploy(template: Template, address: str) -> Counter[str]:
    """Create the stack, check it, delete it; returns how many resources of each type there were.

    Raises:
        DeploymentFailed: if a resource was not created, or a task lacks a variable or a secret.
    """
    session = botocore.session.get_session()

    def client(service: str) -> Any:
        return session.create_client(
            service,
            region_name=REGION,
            endpoint_url=address,
            aws_access_key_id="000000000000",  # the account
            aws_secret_access_key="none",  # noqa: S106 - nothing is secret in an emulator
        )

    parameters, buckets, stacks = client("ssm"), client("s3"), client("cloudformation")
    _wait(lambda: buckets.list_buckets())
    version = {"Name": "/cdk-bootstrap/hnb659fds/version", "Value": "30", "Type": "String"}
    parameters.put_parameter(**version, Overwrite=True)  # what `cdk bootstrap` writes
    buckets.create_bucket(Bucket="templates")
    buckets.put_object(Bucket="templates", Key="template.json", Body=json.dumps(template).encode())
    stack = {"StackName": "ontime"}
    stacks.create_stack(
        **stack, TemplateURL=f"{address}/templates/template.json", Capabilities=["CAPABILITY_IAM"]
    )
    status = _settled(stacks, stack)
    if status != "CREATE_COMPLETE":
        events = stacks.describe_stack_events(**stack)["StackEvents"]
        faults = [
            f"{each['LogicalResourceId']} ({each['ResourceType']}): {each['ResourceStatusReason']}"
            for each in events
            if each["ResourceStatus"] == "CREATE_FAILED" and "ResourceStatusReason" in each
        ]
        raise DeploymentFailed(f"the stack is {status}: {'; '.join(faults)}")
    created = stacks.describe_stack_resources(**stack)["StackResources"]
    missing = template["Resources"].keys() - {each["LogicalResourceId"] for each in created}
    if missing:
        raise DeploymentFailed(f"these resources were not created: {sorted(missing)}")
    _check_tasks(client("ecs"), client("secretsmanager"))
    stacks.delete_stack(**stack)
    status = _settled(stacks, {"StackName": created[0]["StackId"]})
    if status != "DELETE_COMPLETE" or client("ecs").list_clusters()["clusterArns"]:
        raise DeploymentFailed(f"the stack is {status} after its deletion, or left a cluster")
    return Counter(each["ResourceType"] for each in created)


def _check_tasks(ecs: Any, secrets: Any) -> None:
    """Raise DeploymentFailed unless every task's variables are texts and its secrets exist."""
    for arn in ecs.list_task_definitions()["taskDefinitionArns"]:
        task = ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        for container in task["containerDefinitions"]:
            variables = {each["name"]: each["value"] for each in container["environment"]}
            empty = [name for name, value in variables.items() if not value]
            if empty or not container["secrets"]:
                raise DeploymentFailed(f"{container['name']}: empty {empty}, or no secrets")
            for each in container["secrets"]:
                parts = each["valueFrom"].split(":")
                value = secrets.get_secret_value(SecretId=":".join(parts[:7]))["SecretString"]
                if len(parts) > 7 and parts[7] not in json.loads(value):
                    raise DeploymentFailed(f"{container['name']}: {each['name']} has no value")


def _settled(stacks: Any, stack: dict[str, str]) -> str:
    """The stack's status, once nothing is in progress."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        status = str(stacks.describe_stacks(**stack)["Stacks"][0]["StackStatus"])
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
        except botocore.exceptions.EndpointConnectionError:
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
