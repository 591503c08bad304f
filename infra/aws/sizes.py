"""The two sizes of the stack, and what each costs per month.

    python -m infra.aws.sizes

Prices are approximate list prices of us-east-1 in US dollars without tax, typed in and not fetched;
a month has 730 hours. Traffic, logs and backups above the free amounts are not included. Check the
prices before you rely on them: https://calculator.aws
"""

from dataclasses import dataclass

HOURS = 730
FARGATE_VCPU, FARGATE_GB = 0.04048, 0.004445  # per hour, Linux on x86
DATABASE = {"t4g.micro": 0.016, "t4g.medium": 0.065}  # per hour and instance
REDIS = {"cache.t4g.micro": 0.016, "cache.t4g.small": 0.032}
STORAGE_GB = 0.115  # per month, gp3 of RDS
NAT, BALANCER = 0.045, 0.0225  # per hour; the capacity units of the balancer come on top
FILES_GB, BUCKET_GB = 0.30, 0.023
SECRET, KEY, ALARM = 0.40, 1.0, 0.10


@dataclass(frozen=True)
class Task:
    """One Fargate task. cpu: 1024 per vCPU."""

    cpu: int
    memory_mib: int

    @property
    def monthly(self) -> float:
        return HOURS * (self.cpu / 1024 * FARGATE_VCPU + self.memory_mib / 1024 * FARGATE_GB)


@dataclass(frozen=True)
class Size:
    """replicas: of the database and of Redis, in another zone, 0 or 1."""

    name: str
    database: str
    database_gb: int
    redis: str
    replicas: int
    nat_gateways: int
    api: Task
    api_tasks: tuple[int, int]  # fewest and most
    mlflow: Task
    prefect: Task
    worker: Task
    backup_days: int
    log_days: int
    protected: bool  # from deletion, with its data

    def costs(self) -> dict[str, float]:
        """US dollars per month with the fewest tasks, 20 GB of files and 50 GB in the bucket."""
        instances = 1 + self.replicas
        return {
            "Fargate: API": self.api_tasks[0] * self.api.monthly,
            "Fargate: MLflow, Prefect, worker": sum(
                task.monthly for task in (self.mlflow, self.prefect, self.worker)
            ),
            "RDS Postgres": instances
            * (HOURS * DATABASE[self.database] + self.database_gb * STORAGE_GB),
            "ElastiCache Redis": instances * HOURS * REDIS[self.redis],
            "NAT gateways": self.nat_gateways * HOURS * NAT,
            "Load balancer": HOURS * BALANCER,
            "Files and bucket": 20 * FILES_GB + 50 * BUCKET_GB,
            "Secrets, key, alarms": 7 * SECRET + KEY + 7 * ALARM,
        }

    @property
    def monthly(self) -> float:
        return sum(self.costs().values())


DEVELOPMENT = Size(
    name="development",
    database="t4g.micro",
    database_gb=20,
    redis="cache.t4g.micro",
    replicas=0,
    nat_gateways=1,
    api=Task(512, 1024),
    api_tasks=(1, 2),
    mlflow=Task(512, 1024),
    prefect=Task(512, 1024),
    worker=Task(1024, 6144),
    backup_days=1,
    log_days=30,
    protected=False,
)
PRODUCTION = Size(
    name="production",
    database="t4g.medium",
    database_gb=100,
    redis="cache.t4g.small",
    replicas=1,
    nat_gateways=2,
    api=Task(1024, 2048),
    api_tasks=(2, 6),
    mlflow=Task(512, 1024),
    prefect=Task(1024, 2048),
    worker=Task(2048, 8192),
    backup_days=14,
    log_days=365,
    protected=True,
)
SIZES = {size.name: size for size in (DEVELOPMENT, PRODUCTION)}


def main() -> None:
    print("| US dollars per month | " + " | ".join(SIZES) + " |\n|---|" + "---:|" * len(SIZES))
    for item in DEVELOPMENT.costs():
        print(f"| {item} | " + " | ".join(f"{s.costs()[item]:,.0f}" for s in SIZES.values()) + " |")
    print("| **Total** | " + " | ".join(f"**{s.monthly:,.0f}**" for s in SIZES.values()) + " |")


if __name__ == "__main__":
    main()
