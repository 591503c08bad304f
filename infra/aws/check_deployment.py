"""Deploys a synthesized template to MiniStack with real containers, and predicts through it.

    .venv/ministack/bin/python -m infra.aws.check_deployment TEMPLATE

Follows the order of docs/aws.md: the stack without services, the images, the tasks Databases and
Keys, the services that a bootstrap needs, the task Bootstrap, the API. Then one prediction through
the load balancer with the stack's key, its row in the stack's Postgres, and the deletion, after
which no container may run. Needs a Docker engine; without one it says what was left out.

`DIFFERENCES` names what is not as on AWS.
"""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.aws.emulator import (
    ACCOUNT,
    REGION,
    SECRET_KEY,
    STACK,
    Clients,
    DeploymentFailed,
    Template,
    apply,
    check_tasks,
    connect,
    destroy,
    fit,
)
from infra.aws.emulator_containers import (
    TASK,
    Emulator,
    build_images,
    docker,
    emulator,
    memory_of,
)

TASK_TIMEOUT_S = 900  # a bootstrap trains a model
SERVICE_TIMEOUT_S = 180
SERVICES = ("Api", "Mlflow", "Prefect", "Worker")
DIFFERENCES = (
    "CloudFormation of the emulator records a database without starting it: it is started and "
    "deleted through the emulator's RDS API, with the identifier, the version and the secret of "
    "the stack, and reached under the address that the stack names",
    "the emulator has no DNS and limits no memory: both are done with Docker, from the template",
    "Redis is reached with TLS, but its certificate is not verified: an authority of the emulator "
    "signed it",
    "MLflow and the worker read keys for S3 from variables: the AWS SDK takes a task's credentials "
    "from an address of AWS only",
    "images are built under the names in the tasks, and not pushed",
    "not emulated: security groups, roles, TLS as the database's condition, EFS, the limit of CPU, "
    "the read-only root file system, and replacing a task whose health check fails",
)
KEYS = {"AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}


def adapt(template: Template) -> Template:
    """The template with what `DIFFERENCES` says about Redis and S3."""
    text = json.dumps(template).replace(",ssl=true", ",ssl=true,ssl_cert_reqs=none")
    adapted: Template = json.loads(text)
    for resource in adapted["Resources"].values():
        for container in resource.get("Properties", {}).get("ContainerDefinitions", []):
            if container["Name"] in ("Mlflow", "Worker"):
                container["Environment"] += [{"Name": n, "Value": v} for n, v in KEYS.items()]
    return adapted


def without(template: Template, services: tuple[str, ...]) -> Template:
    """The template with no task of these services, as with ``--context without=...``."""
    resources = dict(template["Resources"])
    for service in services:
        name = named(resources, f"{service}Service", "AWS::ECS::Service")
        properties = {**resources[name]["Properties"], "DesiredCount": 0}
        resources[name] = {**resources[name], "Properties": properties}
    return {**template, "Resources": resources}


def named(resources: Template, prefix: str, kind: str) -> str:
    """The one resource of a type whose name starts like this: CDK appends a digest.

    Raises:
        LookupError: if there is none, or several.
    """
    names = [
        name
        for name, each in resources.items()
        if name.startswith(prefix) and kind in (each.get("Type"), each.get("ResourceType"))
    ]
    if len(names) != 1:
        raise LookupError(f"one {kind} must start with {prefix}; found {names}")
    return names[0]


def wait_until(holds: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Raise DeploymentFailed unless it holds within this time."""
    until = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > until:
            raise DeploymentFailed(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(1)


class Deployment:
    """The stack while it is deployed. Each step prints what it did and when.

    Args:
        template: what the emulator can deploy.
    """

    def __init__(self, template: Template, running: Emulator) -> None:
        self.template, self.running = template, running
        self.client: Clients = connect(running.address)
        self.created: Template = {}
        self.started = time.monotonic()

    def report(self, done: str) -> None:
        print(f"{time.monotonic() - self.started:5.0f} s  {done}", flush=True)

    def physical(self, prefix: str, kind: str) -> str:
        return str(self.created[named(self.created, prefix, kind)]["PhysicalResourceId"])

    def secret(self, prefix: str) -> str:
        arn = self.physical(prefix, "AWS::SecretsManager::Secret")
        return str(self.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])

    def create(self) -> None:
        """The stack without a service, and the images."""
        self.created = apply(self.client, without(self.template, SERVICES))
        check_tasks(self.client)
        self.report(f"{len(self.created)} resources created, no service started")
        build_images(self.client)
        self.report("images built")

    def start_database(self, administrator: dict[str, str]) -> tuple[str, str]:
        """Start what the stack recorded; returns the database's identifier and container."""
        rds = self.client("rds")
        (recorded,) = rds.describe_db_instances()["DBInstances"]
        identifier = recorded["DBInstanceIdentifier"]
        kept = ("DBInstanceIdentifier", "DBInstanceClass", "Engine", "EngineVersion",
                "AllocatedStorage")  # fmt: skip
        rds.delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True)
        rds.create_db_instance(
            MasterUsername=administrator["username"],
            MasterUserPassword=administrator["password"],
            **{name: recorded[name] for name in kept},
        )

        def available() -> bool:
            (instance,) = rds.describe_db_instances()["DBInstances"]
            return str(instance["DBInstanceStatus"]) == "available"

        wait_until(available, SERVICE_TIMEOUT_S, "the database is available")
        (container,) = self.running.containers("--filter=label=ministack=rds")
        self.running.give_name(container, recorded["Endpoint"]["Address"])
        self.report("the database is available")
        return identifier, container

    def run(self, name: str) -> None:
        """Run a task to its end.

        Raises:
            DeploymentFailed: if it does not end with 0.
        """
        ecs, definition = self.client("ecs"), self.physical(f"{name}Task", TASK)
        (cluster,) = ecs.list_clusters()["clusterArns"]
        run = ecs.run_task(cluster=cluster, taskDefinition=definition, launchType="FARGATE")
        (task,) = run["tasks"]

        def state() -> Any:
            (found,) = ecs.describe_tasks(cluster=cluster, tasks=[task["taskArn"]])["tasks"]
            return found

        wait_until(lambda: state()["lastStatus"] == "STOPPED", TASK_TIMEOUT_S, f"{name} has ended")
        (container,) = state()["containers"]
        if container.get("exitCode") != 0:
            raise DeploymentFailed(f"the task {name} ended: {state()}")
        self.report(f"task {name} ended with 0")

    def start(self, services: tuple[str, ...], still_without: tuple[str, ...]) -> None:
        """Start services; each must have one container, in which its health check passes."""
        apply(self.client, without(self.template, still_without), update=True)
        for name in services:
            wait_until(lambda: self._healthy(name), SERVICE_TIMEOUT_S, f"{name} is healthy")  # noqa: B023
            self.report(f"service {name} is healthy")

    def _healthy(self, name: str) -> bool:
        resources = self.template["Resources"]
        task = resources[named(resources, f"{name}Task", TASK)]["Properties"]
        command = task["ContainerDefinitions"][0]["HealthCheck"]["Command"][1:]
        found = self.running.containers(f"--filter=label=com.amazonaws.ecs.container-name={name}")
        if len(found) != 1:
            return False
        check = ["docker", "exec", *found, *command]
        return subprocess.run(check, check=False, capture_output=True).returncode == 0

    def predict(self) -> tuple[str, float]:
        """The id and the probability of a prediction for the example of the API's description.

        Raises:
            DeploymentFailed: if it is not returned, or is returned without a key.
        """
        (stack,) = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        balancer = outputs["Address"]

        def ask(path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
            return request(self.running.address + path, balancer, body, key)

        wait_until(lambda: ask("/ready")[0] == 200, SERVICE_TIMEOUT_S, "the API is ready")
        self.report(f"the API is ready at {balancer}")
        key = self.secret("ApiPassword")
        status, description = ask("/openapi.json", key=key)
        if status != 200:
            raise DeploymentFailed(f"the API's description has the status {status}: {description}")
        (example,) = description["components"]["schemas"]["PredictRequest"]["examples"]
        status, _ = ask("/predict", example)
        if status != 401:
            raise DeploymentFailed(f"without a key the status must be 401; it is {status}")
        status, response = ask("/predict", example, key)
        if status != 200:
            raise DeploymentFailed(f"the prediction has the status {status}: {response}")
        (prediction,) = response["predictions"]
        return prediction["prediction_id"], prediction["probability"]


def request(url: str, host: str, body: Any = None, key: str = "") -> tuple[int, Any]:
    """Status and content; the emulator knows a load balancer by the name in the header Host."""
    headers = {"Host": host, "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(  # noqa: S310 - the address is the emulator's
            urllib.request.Request(url, data, headers), timeout=60  # noqa: S310
        ) as response:  # fmt: skip
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def check(template: Template) -> None:
    """Deploy, predict, destroy.

    Raises:
        DeploymentFailed: if a step does not do what it should.
    """
    template = adapt(fit(template)[0])
    resources = template["Resources"]
    zone = named(resources, "Cluster", "AWS::ServiceDiscovery::PrivateDnsNamespace")
    with emulator(resources[zone]["Properties"]["Name"], memory_of(template)) as running:
        stack = Deployment(template, running)
        stack.create()
        administrator = json.loads(stack.secret("ontimedevelopmentPostgresSecret"))
        identifier, database = stack.start_database(administrator)
        stack.run("Databases")
        stack.run("Keys")
        # In one deployment on AWS: there the worker is started when the others are stable.
        stack.start(("Mlflow", "Prefect"), still_without=("Api", "Worker"))
        stack.start(("Worker",), still_without=("Api",))
        stack.run("Bootstrap")
        stack.start(("Api",), still_without=())
        prediction, probability = stack.predict()
        user = f"--username={administrator['username']}"
        query = f"SELECT probability FROM predictions WHERE prediction_id = '{prediction}'"
        row = docker("exec", database, "psql", user, "--dbname=ontime", "-At", "-c", query)
        if not row or float(row) != probability:
            raise DeploymentFailed(f"{prediction} is {probability}, and {row!r} in the database")
        stack.report(f"prediction {prediction} is {probability:.4f}, and is in the database")
        stack.client("rds").delete_db_instance(
            DBInstanceIdentifier=identifier, SkipFinalSnapshot=True
        )
        destroy(stack.client)
        if left := running.containers():
            raise DeploymentFailed(f"these containers still run after the deletion: {left}")
        stack.report("stack destroyed; no container of it runs")


def main(path: str) -> None:
    try:
        engine = subprocess.run(["docker", "info"], check=False, capture_output=True).returncode
    except FileNotFoundError:
        engine = 1
    if engine:
        print("no Docker engine responds: the containers and a prediction were left out")
        return
    print("deployed with containers; not as on AWS:", *DIFFERENCES, sep="\n  - ")
    check(json.loads(Path(path).read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
