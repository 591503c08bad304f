"""MiniStack in a container, beside those that it starts: databases, Redis, tasks of ECS."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from infra.aws.emulator import Clients, DeploymentFailed, Template

ROOT = Path(__file__).parents[2]
IMAGES = ("postgres:17-alpine", "redis:7-alpine")  # which MiniStack starts
TASK = "AWS::ECS::TaskDefinition"


def docker(*arguments: str) -> str:
    """What a command of Docker prints.

    Raises:
        DeploymentFailed: if the command fails.
    """
    done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise DeploymentFailed(f"docker {' '.join(arguments[:3])}: {done.stderr.strip()}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Emulator:
    """A running emulator.

    Attributes:
        address: of its API.
        names: the network on which containers have their names.
        label: of the containers that it starts.
    """

    address: str
    names: str
    label: str

    def containers(self, *options: str) -> list[str]:
        return docker("ps", "--quiet", f"--filter=label={self.label}", *options).split()

    def give_name(self, container: str, name: str) -> None:
        docker("network", "connect", f"--alias={name}", self.names, container)


@contextmanager
def emulator(zone: str, memory: dict[str, str]) -> Iterator[Emulator]:
    """An emulator that starts containers; all of them end with it.

    Args:
        zone: the private zone, in which the container of each task has its name.
        memory: the limit in MiB of each container, by its name in the template.
    """
    name = f"ontime-aws-{os.getpid()}"
    names = f"{name}-names"
    label = f"ministack.instance={name}:4566"
    folder = ROOT / "infra" / "aws"
    recipe = f"--file={folder / 'emulator.Dockerfile'}"
    docker("build", "--quiet", "--tag=ontime-ministack", recipe, str(folder))
    for image in IMAGES:  # before they are needed: the emulator waits ten seconds for Docker
        if not docker("images", "--quiet", image):
            docker("pull", "--quiet", image)
    try:
        for network in (name, names):
            docker("network", "create", network)
        variables = {"MINISTACK_HOSTNAME": name, "DOCKER_NETWORK": name, "RDS_TMPFS_SIZE": "2g"}
        docker(
            "run", "--detach", f"--name={name}", f"--network={name}", "--publish=127.0.0.1::4566",
            "--volume=/var/run/docker.sock:/var/run/docker.sock",
            *(f"--env={variable}={value}" for variable, value in variables.items()),
            "ontime-ministack",
        )  # fmt: skip
        running = Emulator(f"http://{docker('port', name, '4566')}", names, label)
        with _adjusted_tasks(running, zone, memory):
            try:
                yield running
            except Exception:
                for container in [name, *running.containers("--all")]:
                    _print_log(container)
                raise
    finally:
        left = docker("ps", "--all", "--quiet", f"--filter=label={label}").split()
        for arguments in (
            ["rm", "--force", "--volumes", name, *left],
            ["network", "rm", name, names],
        ):
            subprocess.run(["docker", *arguments], check=False, capture_output=True)


def _print_log(container: str) -> None:
    name = docker("inspect", "--format={{.Name}} {{.State.Status}}", container)
    command = ["docker", "logs", "--tail=40", container]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(f"--- {name}\n{done.stdout}{done.stderr}", file=sys.stderr)


@contextmanager
def _adjusted_tasks(emulator: Emulator, zone: str, memory: dict[str, str]) -> Iterator[None]:
    """Gives the container of each task its name and its limit of memory as soon as it starts."""
    attribute = "com.amazonaws.ecs.container-name"
    form = f'{{{{.ID}}}} {{{{index .Actor.Attributes "{attribute}"}}}}'
    events = subprocess.Popen(
        ["docker", "events", "--filter=event=start", f"--filter=label={emulator.label}",
         f"--format={form}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def adjust_each() -> None:
        assert events.stdout is not None
        for line in events.stdout:
            container, _, name = line.strip().partition(" ")
            if name not in memory:  # of no task
                continue
            with suppress(DeploymentFailed):  # a task may have ended
                emulator.give_name(container, f"{name.lower()}.{zone}")
                limit = f"{memory[name]}m"
                docker("update", f"--memory={limit}", f"--memory-swap={limit}", container)

    threading.Thread(target=adjust_each, daemon=True).start()
    try:
        yield
    finally:
        events.terminate()
        events.wait()


def memory_of(template: Template) -> dict[str, str]:
    """The limit in MiB of the task of each container."""
    resources = template["Resources"].values()
    tasks = [each["Properties"] for each in resources if each["Type"] == TASK]
    return {c["Name"]: task["Memory"] for task in tasks for c in task["ContainerDefinitions"]}


def build_images(client: Clients) -> None:
    """Build the images of the stack under the names that its tasks give them.

    They are not pushed: the emulator's ECR holds no layers, and Docker has the images.
    """
    ecs = client("ecs")
    definitions = [
        ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        for arn in ecs.list_task_definitions()["taskDefinitionArns"]
    ]
    recipe = f"--file={ROOT / 'infra' / 'Dockerfile'}"
    for image in sorted({c["image"] for each in definitions for c in each["containerDefinitions"]}):
        target = image.rpartition(":")[0].rpartition("ontime-")[2]
        docker("build", "--quiet", recipe, f"--target={target}", f"--tag={image}", str(ROOT))
