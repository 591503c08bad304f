"""The stack on AWS, in one of two sizes: ``npx aws-cdk --app '... -m infra.aws.app'``.

Context (``--context name=value``): size (development, production), tag (of the images), email (of
alarms), certificate (the ARN of one in ACM; without it the balancer is private), without (services
that get no tasks yet, by commas), repository (owner/name on GitHub, whose workflow may deploy). See
docs/aws.md.
"""

from collections.abc import Collection
from typing import Any

from aws_cdk import App, CfnOutput, Environment, Stack, Tags
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions

from infra.aws.services import Services, build_services
from infra.aws.sizes import SIZES, Size
from infra.aws.storage import Storage, build_storage

REGION = "us-east-1"
# Access logs are allowed by a bucket policy and not by an access control list, which is legacy.
FLAGS = {"@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True}
GITHUB = "token.actions.githubusercontent.com"
DEPLOY_ENVIRONMENT = "aws"  # on GitHub; its protection rule asks for the approval


def build_stack(
    app: App,
    size: Size,
    tag: str,
    email: str,
    certificate: str | None = None,
    without: Collection[str] = (),
) -> Stack:
    """All resources of one size; without: services that get no tasks.

    Raises:
        ValueError: if production would be served without TLS, or a service is not known.
    """
    if size.protected and not certificate:
        raise ValueError("production is served with TLS: give --context certificate=<ARN in ACM>")
    stack = Stack(app, f"ontime-{size.name}", env=Environment(region=REGION))
    Tags.of(stack).add("project", "ontime")
    storage = build_storage(stack, size)
    services = build_services(stack, size, storage, tag, certificate, without)
    _alert(stack, size, storage, services, email)
    CfnOutput(stack, "Address", value=services.balancer.load_balancer_dns_name)
    return stack


def _alert(stack: Stack, size: Size, storage: Storage, services: Services, email: str) -> None:
    topic = sns.Topic(stack, "Alarms", master_key=storage.key, enforce_ssl=True)
    topic.add_subscription(subscriptions.EmailSubscription(email))
    redis = {"CacheClusterId": f"{storage.redis.ref}-001"}
    target = elbv2.HttpCodeTarget.TARGET_5XX_COUNT
    latency = services.target.metrics.target_response_time(statistic="p95")
    rules: dict[str, tuple[Any, float, str]] = {
        "ServerErrors": (services.target.metrics.http_code_target(target), 5, "GREATER"),
        "UnhealthyTargets": (services.target.metrics.unhealthy_host_count(), 0, "GREATER"),
        "HighLatency": (latency, 1, "GREATER"),
        "ApiCpu": (services.api.metric_cpu_utilization(), 85, "GREATER"),
        "DatabaseCpu": (storage.database.metric_cpu_utilization(), 85, "GREATER"),
        "DatabaseDisk": (storage.database.metric_free_storage_space(), 2e9, "LESS"),
        "RedisMemory": (
            cloudwatch.Metric(
                namespace="AWS/ElastiCache",
                metric_name="DatabaseMemoryUsagePercentage",
                dimensions_map=redis,
            ),
            85,
            "GREATER",
        ),
    }
    for name, (metric, threshold, direction) in rules.items():
        alarm = cloudwatch.Alarm(
            stack,
            name,
            metric=metric,
            threshold=threshold,
            evaluation_periods=3,
            comparison_operator=cloudwatch.ComparisonOperator[f"{direction}_THAN_THRESHOLD"],
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        alarm.add_alarm_action(actions.SnsAction(topic))
    budgets.CfnBudget(
        stack,
        "Budget",
        budget=budgets.CfnBudget.BudgetDataProperty(
            budget_type="COST",
            time_unit="MONTHLY",
            budget_limit=budgets.CfnBudget.SpendProperty(
                amount=round(1.25 * size.monthly), unit="USD"
            ),
        ),
        notifications_with_subscribers=[
            budgets.CfnBudget.NotificationWithSubscribersProperty(
                notification=budgets.CfnBudget.NotificationProperty(
                    comparison_operator="GREATER_THAN", notification_type=kind, threshold=80
                ),
                subscribers=[
                    budgets.CfnBudget.SubscriberProperty(subscription_type="EMAIL", address=email)
                ],
            )
            for kind in ("ACTUAL", "FORECASTED")
        ],
    )


def build_github_stack(app: App, repository: str) -> Stack:
    """Roles that GitHub's workflow assumes by OIDC: one reads, one deploys after an approval."""
    stack = Stack(app, "ontime-github", env=Environment(region=REGION))
    provider = iam.OidcProviderNative(
        stack, "GitHub", url=f"https://{GITHUB}", client_ids=["sts.amazonaws.com"]
    )
    subjects = {
        "Diff": (f"repo:{repository}:pull_request", ["lookup"]),
        "Deploy": (
            f"repo:{repository}:environment:{DEPLOY_ENVIRONMENT}",
            ["lookup", "deploy", "file-publishing"],
        ),
    }
    for name, (subject, bootstrap_roles) in subjects.items():
        conditions = {
            "StringEquals": {f"{GITHUB}:aud": "sts.amazonaws.com", f"{GITHUB}:sub": subject}
        }
        principal = iam.WebIdentityPrincipal(provider.oidc_provider_arn, conditions)
        role = iam.Role(stack, f"{name}Role", assumed_by=principal)
        role.add_to_policy(
            iam.PolicyStatement(  # the roles that `cdk bootstrap` made
                actions=["sts:AssumeRole"],
                resources=[
                    f"arn:aws:iam::{stack.account}:role/cdk-*-{each}-role-{stack.account}-{REGION}"
                    for each in bootstrap_roles
                ],
            )
        )
        CfnOutput(stack, f"{name}RoleArn", value=role.role_arn)
    return stack


def main() -> None:
    app = App(context=FLAGS)

    def context(name: str, default: str | None = None) -> Any:
        return app.node.try_get_context(name) or default

    size = context("size", "development")
    if size not in SIZES:
        raise SystemExit(f"size is one of {', '.join(SIZES)}; found {size!r}")
    build_stack(
        app,
        SIZES[size],
        tag=context("tag", "0.1.0"),
        email=context("email", "ontime@example.com"),
        certificate=context("certificate"),
        without=[name for name in context("without", "").split(",") if name],
    )
    if repository := context("repository"):
        build_github_stack(app, repository)
    app.synth()


if __name__ == "__main__":
    main()
