"""The containers on Fargate: API behind a load balancer, MLflow, Prefect, worker, single tasks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_servicediscovery as servicediscovery

from infra.aws.balancer import expose
from infra.aws.sizes import Size, Task
from infra.aws.storage import DATABASES, Storage, retention

NAMESPACE = "ontime.internal"
TABLES = "tables"  # prefix of the bucket for source and feature tables
SERVICES = ("Api", "Mlflow", "Prefect", "Worker")
CREATE_DATABASES = Path(__file__).with_name("create_databases.py")
# Passwords reach a container as variables; the URLs that contain them are put together inside.
URLS = {
    "ONTIME_PREDICTION_DB_URL": "postgresql+psycopg://ontime:$ONTIME_PASSWORD@$DB_HOST/ontime",
    "ONTIME_FEAST_REGISTRY_URL": "postgresql+psycopg://feast:$FEAST_PASSWORD@$DB_HOST/feast",
    "ONTIME_REDIS_URL": "$REDIS_HOST:6379,ssl=true,password=$REDIS_PASSWORD",
}
API_KEY = {"ONTIME_API_KEY": "$API_PASSWORD"}
MLFLOW_URLS = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://mlflow:$MLFLOW_PASSWORD@$DB_HOST/mlflow"
}
PREFECT_URLS = {
    "PREFECT_API_DATABASE_CONNECTION_URL": (
        "postgresql+asyncpg://prefect:$PREFECT_PASSWORD@$DB_HOST/prefect"
    )
}
APP_PASSWORDS = ("ontime", "feast", "redis")


@dataclass(frozen=True)
class Services:
    api: Any
    balancer: Any
    target: Any


class _Builder:
    """Makes task definitions and services that share the cluster, the image tag and the rules."""

    def __init__(
        self, stack: Stack, size: Size, storage: Storage, tag: str, without: Collection[str]
    ) -> None:
        self.stack, self.size, self.storage, self.tag = stack, size, storage, tag
        self.without = without
        self.cluster = ecs.Cluster(
            stack,
            "Cluster",
            vpc=storage.vpc,
            container_insights_v2=ecs.ContainerInsights.ENABLED,
            default_cloud_map_namespace=ecs.CloudMapNamespaceOptions(
                name=NAMESPACE, type=servicediscovery.NamespaceType.DNS_PRIVATE
            ),
        )

    def define(
        self,
        name: str,
        image: str,
        task: Task,
        command: str,
        environment: Mapping[str, str],
        passwords: Sequence[str],
        urls: Mapping[str, str],
        port: int | None = None,
        health: str | None = None,
        keeps_files: bool = False,
    ) -> Any:
        """A task that writes to /tmp and to var only. health: the path of its HTTP check."""
        definition = ecs.FargateTaskDefinition(
            self.stack, f"{name}Task", cpu=task.cpu, memory_limit_mib=task.memory_mib
        )
        exports = "".join(f'export {variable}="{value}"; ' for variable, value in urls.items())
        check = None
        if health:
            program = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{health}')"
            check = ecs.HealthCheck(
                command=["CMD", "python", "-c", program],
                interval=Duration.seconds(15),
                timeout=Duration.seconds(10),
                start_period=Duration.seconds(120),
            )
        log_group = logs.LogGroup(
            self.stack,
            f"{name}Logs",
            retention=retention(self.size),
            encryption_key=self.storage.key,
            removal_policy=RemovalPolicy.DESTROY,
        )
        container = definition.add_container(
            name,
            image=ecs.ContainerImage.from_ecr_repository(self.storage.images[image], self.tag),
            command=["sh", "-c", f"{exports}exec {command}"],
            environment={
                "DB_HOST": self.storage.database.db_instance_endpoint_address,
                "REDIS_HOST": self.storage.redis.attr_primary_end_point_address,
                **environment,
            },
            secrets={
                f"{secret.upper()}_PASSWORD": ecs.Secret.from_secrets_manager(
                    self.storage.passwords[secret]
                )
                for secret in passwords
            },
            logging=ecs.LogDrivers.aws_logs(stream_prefix=name.lower(), log_group=log_group),
            readonly_root_filesystem=True,
            user="10001",
            health_check=check,
            port_mappings=[ecs.PortMapping(container_port=port)] if port else None,
        )
        mounts = {"tmp": ("/tmp", None), "var": ("/app/var", None)}  # noqa: S108 - in a container
        if keeps_files:
            mounts["var"] = ("/app/var", self._file_volume(definition))
        for volume, (path, configuration) in mounts.items():
            definition.add_volume(name=volume, efs_volume_configuration=configuration)
            container.add_mount_points(
                ecs.MountPoint(container_path=path, source_volume=volume, read_only=False)
            )
        return definition

    def _file_volume(self, definition: Any) -> Any:
        self.storage.files.grant_read_write(definition.task_role)
        return ecs.EfsVolumeConfiguration(
            file_system_id=self.storage.files.file_system_id,
            transit_encryption="ENABLED",
            authorization_config=ecs.AuthorizationConfig(
                access_point_id=self.storage.access_point.access_point_id, iam="ENABLED"
            ),
        )

    def serve(self, name: str, definition: Any, tasks: int = 1, host: str | None = None) -> Any:
        """A service without a public address; host: its name in the private zone."""
        group = ec2.SecurityGroup(self.stack, f"{name}Group", vpc=self.storage.vpc)
        options = ecs.CloudMapOptions(name=host, dns_ttl=Duration.seconds(10)) if host else None
        rolling = tasks > 1
        return ecs.FargateService(
            self.stack,
            name,
            cluster=self.cluster,
            task_definition=definition,
            desired_count=0 if name in self.without else tasks,
            assign_public_ip=False,
            security_groups=[group],
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS),
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            # A single worker or server is replaced, because two would share its files or database.
            min_healthy_percent=100 if rolling or name == "Api" else 0,
            max_healthy_percent=200 if rolling or name == "Api" else 100,
            cloud_map_options=options,
        )


def build_services(
    stack: Stack,
    size: Size,
    storage: Storage,
    tag: str,
    certificate: str | None,
    without: Collection[str],
) -> Services:
    """All services, and the tasks that are run once: Databases, Keys, Bootstrap.

    Raises:
        ValueError: if a name of `without` is not one of a service.
    """
    if unknown := set(without) - set(SERVICES):
        raise ValueError(f"without names some of {', '.join(SERVICES)}; found {sorted(unknown)}")
    build = _Builder(stack, size, storage, tag, without)
    app = {
        "ONTIME_ENVIRONMENT": "production",
        "ONTIME_MLFLOW_URL": f"http://mlflow.{NAMESPACE}:5000",
        "ONTIME_API_URL": f"http://api.{NAMESPACE}:9000",
    }
    flows = app | {
        "ONTIME_RETRAIN_VIA_EVENTS": "true",
        "PREFECT_API_URL": f"http://prefect.{NAMESPACE}:4200/api",
        "PREFECT_HOME": "/tmp/prefect",  # noqa: S108 - in a container
    }
    api = build.serve(
        "Api",
        build.define(
            "Api", "serving", size.api, "python -m serving.server --host 0.0.0.0", app,
            APP_PASSWORDS, URLS, port=9000, health="/health",
        ),
        tasks=size.api_tasks[0],
        host="api",
    )  # fmt: skip
    mlflow_task = build.define(
        "Mlflow", "pipelines", size.mlflow,
        "mlflow server --host=0.0.0.0 --workers=1 --serve-artifacts "
        f"--artifacts-destination=s3://{storage.bucket.bucket_name}/mlflow "
        f"--allowed-hosts=mlflow.{NAMESPACE}:5000,localhost:*,127.0.0.1:*",
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ["mlflow"], MLFLOW_URLS, port=5000, health="/health",
    )  # fmt: skip
    storage.bucket.grant_read_write(mlflow_task.task_role, "mlflow/*")
    mlflow = build.serve("Mlflow", mlflow_task, host="mlflow")
    prefect = build.serve(
        "Prefect",
        build.define(
            "Prefect", "pipelines", size.prefect, "prefect server start --host=0.0.0.0",
            {"PREFECT_HOME": "/tmp/prefect", "PREFECT_SERVER_UI_STATIC_DIRECTORY": "/tmp/ui"},  # noqa: S108
            ["prefect"], PREFECT_URLS, port=4200, health="/api/health",
        ),
        host="prefect",
    )  # fmt: skip
    worker_command = "prefect worker start --pool=local --type=process --with-healthcheck"
    tables = {"ONTIME_TABLES_URL": f"s3://{storage.bucket.bucket_name}/{TABLES}"}
    worker_task = build.define(
        "Worker", "pipelines", size.worker, worker_command, flows | tables,
        (*APP_PASSWORDS, "api"), URLS | API_KEY, port=8080, health="/health", keeps_files=True,
    )  # fmt: skip
    _grant_tables(storage, worker_task.task_role)
    worker = build.serve("Worker", worker_task)
    worker.node.add_dependency(mlflow, prefect)  # it ends where Prefect does not respond
    tasks = ec2.SecurityGroup(stack, "TasksGroup", vpc=storage.vpc)
    _define_single_tasks(build, app, flows)

    clients = [*api.connections.security_groups, *worker.connections.security_groups, tasks]
    servers = [*mlflow.connections.security_groups, *prefect.connections.security_groups]
    for group in (*clients, *servers):
        storage.database.connections.allow_default_port_from(group)
    for group in clients:
        storage.redis_group.add_ingress_rule(group, ec2.Port.tcp(6379), "Online store")
        mlflow.connections.allow_from(group, ec2.Port.tcp(5000), "Registry")
    for group in (*worker.connections.security_groups, tasks):
        prefect.connections.allow_from(group, ec2.Port.tcp(4200), "Flow runs")
        api.connections.allow_from(group, ec2.Port.tcp(9000), "Clients inside")
    storage.files.connections.allow_default_port_from(worker)

    if "Api" not in without:
        scaling = api.auto_scale_task_count(
            min_capacity=size.api_tasks[0], max_capacity=size.api_tasks[1]
        )
        scaling.scale_on_cpu_utilization("Cpu", target_utilization_percent=60)
    balancer, target = expose(stack, size, storage, api, certificate)
    return Services(api, balancer, target)


def _grant_tables(storage: Storage, role: Any) -> None:
    """Read and replace the objects below `TABLES`; nothing is deleted or listed."""
    storage.key.grant(role, "kms:Decrypt", "kms:GenerateDataKey")
    role.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
            resources=[storage.bucket.arn_for_objects(f"{TABLES}/*")],
        )
    )


def _define_single_tasks(build: _Builder, app: Mapping[str, str], flows: Mapping[str, str]) -> None:
    small = Task(256, 512)
    databases = build.define(
        "Databases", "pipelines", small, 'python -c "$PROGRAM"',
        {"PROGRAM": CREATE_DATABASES.read_text(), "DATABASES": ",".join(DATABASES)},
        DATABASES, {},
    )  # fmt: skip
    secret = build.storage.database.secret
    for variable, field in (("DB_USER", "username"), ("DB_PASSWORD", "password")):
        databases.default_container.add_secret(
            variable, ecs.Secret.from_secrets_manager(secret, field)
        )
    build.define(
        "Keys", "serving", small,
        "python -m serving.keys create --given --client operator "
        "--scopes predict,outcomes,operate,read --production-traffic",
        app, (*APP_PASSWORDS, "api"), URLS | API_KEY,
    )  # fmt: skip
    build.define(
        # `prefect deploy` imports every flow in a second process.
        "Bootstrap", "pipelines", Task(512, 2048), "python -m pipelines.bootstrap", flows,
        (*APP_PASSWORDS, "api"), URLS | API_KEY,
    )  # fmt: skip
