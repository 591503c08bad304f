"""Every service killed, frozen, and with a full disk, while clients predict: nothing is lost.

Each test writes the seconds until its service worked again. These tests come before those of
`test_stack`, in which the champion changes. The disk of Postgres has a test there.
"""

import time

import pytest

from tests.e2e.conftest import POSTGRES_BOUND_S, Stack, assert_logged_once, traffic, wait_until

pytestmark = pytest.mark.e2e

NEEDED = ("api", "redis", "postgres")  # to predict
OTHERS = ("mlflow", "s3", "prefect", "worker", "evidently", "prometheus", "grafana")
# A service without a volume writes to /tmp. None of these disks is needed to predict.
DISKS = ("api", "redis", "mlflow", "s3", "prefect", "worker", "evidently", "prometheus", "grafana")
# These write when they are asked to work; the others work on while their disk is full.
NOTICE_A_FULL_DISK = ("redis", "mlflow", "s3", "worker", "prometheus")
FROZEN_S = 12.0  # longer than any timeout of a request
RECOVERED_WITHIN_S = 120.0


def note(stack: Stack, fault: str, service: str, seconds: float) -> None:
    stack.measured.setdefault(f"{fault}recovery_seconds", {})[service] = round(seconds, 1)


@pytest.mark.parametrize("service", [*OTHERS, *NEEDED])
def test_no_prediction_is_lost_or_doubled_by_a_crash_of(stack: Stack, service: str) -> None:
    with traffic(stack, f"without-{service}") as clients:
        note(stack, "", service, stack.crash(service))
    assert set(clients.statuses) <= ({200, 503, 0} if service in NEEDED else {200})
    assert max(clients.seconds) < POSTGRES_BOUND_S
    assert_logged_once(stack, clients.succeeded)


@pytest.mark.parametrize("service", [*OTHERS, *NEEDED])
def test_no_prediction_is_lost_or_doubled_by_a_freeze_of(stack: Stack, service: str) -> None:
    with traffic(stack, f"frozen-{service}") as clients:
        stack.compose("pause", service)
        try:
            time.sleep(FROZEN_S)
        finally:
            stack.compose("unpause", service)
        note(stack, "frozen_", service, stack.recovery(service, RECOVERED_WITHIN_S))
    assert set(clients.statuses) <= ({200, 503, 0} if service in NEEDED else {200})
    assert_logged_once(stack, clients.succeeded)


@pytest.mark.parametrize("service", DISKS)
def test_no_request_fails_by_a_full_disk_of(stack: Stack, service: str) -> None:
    with traffic(stack, f"full-{service}") as clients:
        stack.fill_disk(service)
        try:
            if service in NOTICE_A_FULL_DISK:
                wait_until(lambda: not stack.works(service), 60, f"{service} notices its disk")
            else:
                time.sleep(5)
        finally:
            stack.free_disk(service)
        note(stack, "full_disk_", service, stack.recovery(service, RECOVERED_WITHIN_S))
    assert set(clients.statuses) == {200}
    assert_logged_once(stack, clients.succeeded)
