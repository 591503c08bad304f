"""The load balancer in front of the API."""

from typing import Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elbv2

from infra.aws.sizes import Size
from infra.aws.storage import Storage, exempt


def expose(
    stack: Stack, size: Size, storage: Storage, api: Any, certificate: str | None
) -> tuple[Any, Any]:
    """The balancer; it is public only with a certificate, so that nothing travels in clear text."""
    balancer = elbv2.ApplicationLoadBalancer(
        stack,
        "Balancer",
        vpc=storage.vpc,
        internet_facing=certificate is not None,
        drop_invalid_header_fields=True,
        deletion_protection=size.protected,
    )
    balancer.log_access_logs(storage.log_bucket, "balancer")
    options: dict[str, Any] = {"port": 80, "protocol": elbv2.ApplicationProtocol.HTTP}
    if certificate:
        options = {
            "port": 443,
            "certificates": [acm.Certificate.from_certificate_arn(stack, "Tls", certificate)],
            "ssl_policy": elbv2.SslPolicy.TLS13_RES,
        }
    listener = balancer.add_listener("Listener", open=certificate is not None, **options)
    target = listener.add_targets(
        "Api",
        port=9000,
        protocol=elbv2.ApplicationProtocol.HTTP,
        targets=[api],
        deregistration_delay=Duration.seconds(30),
        health_check=elbv2.HealthCheck(
            path="/ready", interval=Duration.seconds(15), timeout=Duration.seconds(12)
        ),
    )
    if not certificate:
        inside_only = "reached from inside of the network only, where no certificate is given"
        exempt(listener, {"CKV_AWS_2": inside_only, "CKV_AWS_103": inside_only})
        inside = ec2.Peer.ipv4(storage.vpc.vpc_cidr_block)
        balancer.connections.allow_from(inside, ec2.Port.tcp(80), "From inside the network")
    return balancer, target
