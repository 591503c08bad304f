"""Network and storage: VPC, Postgres, Redis, buckets, files, image repositories, secrets."""

from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_efs as efs
from aws_cdk import aws_elasticache as elasticache
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager

from infra.aws.sizes import Size

DATABASES = ("ontime", "mlflow", "prefect", "feast")  # one role and one password each
IMAGES = ("serving", "pipelines")
USER = "10001"  # of the images


@dataclass(frozen=True)
class Storage:
    """What the services use. passwords: of each database, of "redis", and of "api", its key."""

    key: Any
    vpc: Any
    database: Any
    redis: Any
    redis_group: Any
    bucket: Any
    log_bucket: Any
    files: Any
    access_point: Any
    images: dict[str, Any]
    passwords: dict[str, Any]


def exempt(construct: Any, reasons: dict[str, str]) -> None:
    """Exempt a resource from checks of checkov, each with its reason, in the template."""
    skipped = [{"id": check, "comment": reason} for check, reason in reasons.items()]
    construct.node.default_child.add_metadata("checkov", {"skip": skipped})


def build_storage(stack: Stack, size: Size) -> Storage:
    removal = RemovalPolicy.RETAIN if size.protected else RemovalPolicy.DESTROY
    key = _build_key(stack, removal)
    log_bucket = s3.Bucket(
        stack,
        "AccessLogs",
        encryption=s3.BucketEncryption.S3_MANAGED,  # load balancers cannot write with a KMS key
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        versioned=True,
        lifecycle_rules=[
            s3.LifecycleRule(
                expiration=Duration.days(size.log_days),
                noncurrent_version_expiration=Duration.days(7),
            )
        ],
        removal_policy=removal,
    )
    exempt(log_bucket, {"CKV_AWS_18": "the bucket of the access logs has no access log itself"})
    bucket = s3.Bucket(
        stack,
        "Artifacts",
        encryption=s3.BucketEncryption.KMS,
        encryption_key=key,
        bucket_key_enabled=True,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        versioned=True,
        server_access_logs_bucket=log_bucket,
        server_access_logs_prefix="artifacts/",
        lifecycle_rules=[
            s3.LifecycleRule(
                noncurrent_version_expiration=Duration.days(90),
                # The parts of an upload whose task was killed.
                abort_incomplete_multipart_upload_after=Duration.days(7),
            )
        ],
        removal_policy=removal,
    )
    vpc = _build_vpc(stack, size, key)
    passwords = {
        name: secretsmanager.Secret(
            stack,
            f"{name.title()}Password",
            encryption_key=key,
            # Passwords are parts of URLs.
            generate_secret_string=secretsmanager.SecretStringGenerator(
                exclude_punctuation=True, password_length=32
            ),
            removal_policy=removal,
        )
        for name in (*DATABASES, "redis", "api")
    }
    redis_group = ec2.SecurityGroup(stack, "RedisGroup", vpc=vpc, allow_all_outbound=False)
    files = efs.FileSystem(
        stack,
        "Files",
        vpc=vpc,
        encrypted=True,
        kms_key=key,
        enable_automatic_backups=size.protected,
        removal_policy=removal,
    )
    access_point = files.add_access_point(
        "Var",
        path="/var",
        create_acl=efs.Acl(owner_uid=USER, owner_gid=USER, permissions="750"),
        posix_user=efs.PosixUser(uid=USER, gid=USER),
    )
    return Storage(
        key=key,
        vpc=vpc,
        database=_build_database(stack, size, vpc, key),
        redis=_build_redis(stack, size, vpc, key, redis_group, passwords["redis"]),
        redis_group=redis_group,
        bucket=bucket,
        log_bucket=log_bucket,
        files=files,
        access_point=access_point,
        images={name: _build_repository(stack, name, key, removal) for name in IMAGES},
        passwords=passwords,
    )


def _build_key(stack: Stack, removal: RemovalPolicy) -> Any:
    key = kms.Key(stack, "Key", enable_key_rotation=True, removal_policy=removal)
    for service in (f"logs.{stack.region}.amazonaws.com", "cloudwatch.amazonaws.com"):
        key.grant_encrypt_decrypt(iam.ServicePrincipal(service))
    return key


def _build_vpc(stack: Stack, size: Size, key: Any) -> Any:
    """Public subnets for the balancer, private ones for tasks, isolated ones for data."""
    vpc = ec2.Vpc(
        stack,
        "Vpc",
        max_azs=2,
        nat_gateways=size.nat_gateways,
        restrict_default_security_group=False,  # would need a function with rights to change groups
        subnet_configuration=[
            ec2.SubnetConfiguration(
                name="public",
                subnet_type=ec2.SubnetType.PUBLIC,
                cidr_mask=24,
                map_public_ip_on_launch=False,
            ),
            ec2.SubnetConfiguration(
                name="tasks", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS, cidr_mask=22
            ),
            ec2.SubnetConfiguration(
                name="data", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24
            ),
        ],
    )
    vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
    flows = logs.LogGroup(
        stack,
        "FlowLogs",
        retention=retention(size),
        encryption_key=key,
        removal_policy=RemovalPolicy.DESTROY,
    )
    vpc.add_flow_log(
        "Flows",
        destination=ec2.FlowLogDestination.to_cloud_watch_logs(flows),
        traffic_type=ec2.FlowLogTrafficType.REJECT,
    )
    return vpc


def retention(size: Size) -> logs.RetentionDays:
    """How long logs are kept."""
    return logs.RetentionDays.ONE_YEAR if size.log_days >= 365 else logs.RetentionDays.ONE_MONTH


def _build_database(stack: Stack, size: Size, vpc: Any, key: Any) -> Any:
    database = rds.DatabaseInstance(
        stack,
        "Postgres",
        engine=rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17_6),
        instance_type=ec2.InstanceType(size.database),
        vpc=vpc,
        vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
        publicly_accessible=False,
        multi_az=size.replicas > 0,
        allocated_storage=size.database_gb,
        max_allocated_storage=5 * size.database_gb,
        storage_type=rds.StorageType.GP3,
        storage_encrypted=True,
        storage_encryption_key=key,
        credentials=rds.Credentials.from_generated_secret(
            "administrator",
            encryption_key=key,
            exclude_characters="\"@/\\ '%:?#[]{}$&+,;=`|~^<>()!*",
        ),
        parameters={"rds.force_ssl": "1", "log_min_duration_statement": "1000"},
        backup_retention=Duration.days(size.backup_days),
        copy_tags_to_snapshot=True,
        deletion_protection=size.protected,
        auto_minor_version_upgrade=True,
        cloudwatch_logs_exports=["postgresql"],
        enable_performance_insights=True,
        performance_insight_encryption_key=key,
        monitoring_interval=Duration.minutes(1),
        iam_authentication=True,
        removal_policy=RemovalPolicy.SNAPSHOT if size.protected else RemovalPolicy.DESTROY,
    )
    if not size.replicas:
        exempt(database, {"CKV_AWS_157": "development has no replica: half of the price"})
    return database


def _build_redis(
    stack: Stack, size: Size, vpc: Any, key: Any, group: Any, password: Any
) -> elasticache.CfnReplicationGroup:
    subnets = elasticache.CfnSubnetGroup(
        stack,
        "RedisSubnets",
        description="Isolated subnets of the online store",
        subnet_ids=[subnet.subnet_id for subnet in vpc.isolated_subnets],
    )
    return elasticache.CfnReplicationGroup(
        stack,
        "Redis",
        replication_group_description="Online store",
        engine="redis",
        engine_version="7.1",
        cache_node_type=size.redis,
        num_cache_clusters=1 + size.replicas,
        automatic_failover_enabled=size.replicas > 0,
        multi_az_enabled=size.replicas > 0,
        at_rest_encryption_enabled=True,
        kms_key_id=key.key_arn,
        transit_encryption_enabled=True,
        auth_token=password.secret_value.unsafe_unwrap(),  # a reference that is resolved at deploy
        cache_subnet_group_name=subnets.ref,
        security_group_ids=[group.security_group_id],
        snapshot_retention_limit=size.backup_days,
    )


def _build_repository(stack: Stack, name: str, key: Any, removal: RemovalPolicy) -> Any:
    return ecr.Repository(
        stack,
        f"{name.title()}Image",
        repository_name=f"ontime-{name}",
        encryption=ecr.RepositoryEncryption.KMS,
        encryption_key=key,
        image_scan_on_push=True,
        image_tag_mutability=ecr.TagMutability.IMMUTABLE,
        lifecycle_rules=[ecr.LifecycleRule(max_image_count=20)],
        removal_policy=removal,
        empty_on_delete=removal == RemovalPolicy.DESTROY,
    )
