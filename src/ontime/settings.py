"""Every path, address and switch, read from ``ONTIME_*`` variables and from ``.env``.

The defaults are the embedded system (files and SQLite below ``var/``). Each production service is
selected by its own variable; no other code depends on the environment it runs in.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# The repository root of a development install: `var` does not follow the working directory.
ROOT = Path(__file__).resolve().parents[2]
DUCKDB_MEMORY = "4GB"  # ten times the default source was built with it (docs/scale.md)
# A bucket and a prefix whose characters mean the same to every library that reads them.
S3_PREFIX = re.compile(r"s3://[a-z0-9][a-z0-9.-]*(/[\w.=-]+)*", re.ASCII)
# Part of every default password in docker-compose.yml.
DEVELOPMENT_SECRET = "development-only"  # noqa: S105 - published on purpose


class Settings(BaseSettings):
    """All settings; ``.env.example`` lists them with these defaults. Invalid values raise."""

    model_config = SettingsConfigDict(
        env_prefix="ONTIME_",
        env_file=".env",
        env_ignore_empty=True,
        extra="forbid",
        dotenv_filtering="match_prefix",  # Compose reads the same file and has names of its own
        hide_input_in_errors=True,  # addresses contain passwords
    )

    environment: Literal["development", "production"] = "development"
    data_dir: Path = Field(ROOT / "var", description="root of all files that the system writes")
    source: str = Field(
        "", description="folder or s3:// prefix of the source files; empty: the problem's own"
    )
    tables_url: str = Field(
        "", description="s3:// prefix of source and feature tables; empty: folders in data_dir"
    )
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb", description="what builds features and joins them to examples"
    )
    duckdb_memory: str = Field(
        DUCKDB_MEMORY,
        pattern=r"^[1-9]\d*(MB|GB)$",
        description="memory in which DuckDB builds features; what does not fit is spilled",
    )
    mlflow_url: str = Field("", description="tracking and registry; empty: SQLite in data_dir")
    prediction_db_url: str = Field(
        "", description="prediction log, SQLAlchemy URL; empty: SQLite in data_dir"
    )
    feast_registry_url: str = Field("", description="SQL registry; empty: a file in data_dir")
    redis_url: str = Field(
        "", description="Feast online store, host:port[,password=...]; empty: SQLite in data_dir"
    )
    # Not 8000: Prefect's temporary server takes a port between 8000 and 8999.
    api_url: str = Field("http://127.0.0.1:9000", description="address of the API for its clients")
    api_key: str = Field(
        "", description="API key of the clients; empty: the one in data_dir/api.key"
    )
    allowed_hosts: str = Field("", description="Host headers that the API accepts; empty: any")
    max_body_bytes: int = Field(
        2_000_000, gt=0, description="largest request body; 5,000 outcomes take 1 MB"
    )
    champion_poll_s: float = Field(5.0, ge=0, description="seconds between registry polls; 0: off")
    batch_wait_ms: float = Field(
        0.0, ge=0, le=100, description="wait of an idle API for more requests to predict together"
    )
    metrics_dir: Path | None = Field(
        None, description="where several workers of the API share metrics; serving.server sets it"
    )
    retrain_via_events: bool = Field(
        False, description="start a retrain by a Prefect event and its automation, not in process"
    )
    code_revision: str = Field("", description="commit logged with a run where there is no git")
    passwords_set: str = Field(
        "", description="services of the stack as name=yes, or name= with a default password"
    )
    shadow: bool = Field(True, description="score live traffic with a challenger in the background")
    canary_shares: Annotated[tuple[float, ...], NoDecode] = Field(
        (), description="shares of the instances that a new champion gets first; empty: all at once"
    )

    @field_validator("tables_url")
    @classmethod
    def check_tables_url(cls, given: str) -> str:
        url = given.rstrip("/")
        if url and not S3_PREFIX.fullmatch(url):
            # A user or an option of a URL may be a secret.
            shown = given.partition("?")[0].rpartition("@")[2]
            raise ValueError(
                "ONTIME_TABLES_URL is empty or like s3://bucket/prefix, with letters, digits and "
                "._=- in the prefix; credentials and endpoint are AWS_* variables of the "
                f"environment. Given: {shown}"
            )
        return url

    @field_validator("canary_shares", mode="before")
    @classmethod
    def parse_shares(cls, given: str | tuple[float, ...]) -> tuple[float, ...]:
        shares = tuple(map(float, given.split(",") if isinstance(given, str) else given))
        if not all(a < b for a, b in pairwise((0.0, *shares, 1.0))):
            raise ValueError(f"shares increase between 0 and 1, like 0.05,0.25; given: {shares}")
        return shares

    @model_validator(mode="after")
    def fill_embedded_defaults(self) -> "Settings":
        self.data_dir = self.data_dir.resolve()
        self.mlflow_url = self.mlflow_url or f"sqlite:///{self.data_dir}/mlflow/mlflow.db"
        default = f"sqlite:///{self.data_dir}/log/predictions.db"
        self.prediction_db_url = self.prediction_db_url or default
        return self

    @model_validator(mode="after")
    def reject_spark_on_s3(self) -> "Settings":
        if self.engine == "spark" and self.tables_url:
            raise ValueError(
                "ONTIME_ENGINE=spark needs tables in data_dir, because Spark's connector for S3 "
                f"(hadoop-aws) is not installed, and ONTIME_TABLES_URL is {self.tables_url}: unset "
                "it, or use ONTIME_ENGINE=duckdb"
            )
        return self

    @model_validator(mode="after")
    def reject_development_secrets(self) -> "Settings":
        secrets = ("mlflow_url", "prediction_db_url", "feast_registry_url", "redis_url", "api_key")
        default = [name for name in secrets if DEVELOPMENT_SECRET in getattr(self, name)]
        if self.environment == "production" and default:
            names = ", ".join(f"ONTIME_{name.upper()}" for name in default)
            raise ValueError(
                f"in production no address or key contains {DEVELOPMENT_SECRET!r}, and these do: "
                f"{names}. Set the passwords, or ONTIME_ENVIRONMENT=development"
            )
        unset = [word[:-1] for word in self.passwords_set.split() if word.endswith("=")]
        if self.environment == "production" and unset:
            raise ValueError(
                f"in production every service of the stack has a password of its own, and these do "
                f"not: {', '.join(unset)}. Set the variables that .env.example lists"
            )
        return self

    @property
    def api_key_file(self) -> Path:
        """The key that a development API creates at its first start."""
        return self.data_dir / "api.key"

    @property
    def client_headers(self) -> dict[str, str]:
        """The headers with which a client of the API authenticates itself."""
        key = self.api_key
        if not key and self.api_key_file.exists():
            key = self.api_key_file.read_text().strip()
        return {"Authorization": f"Bearer {key}"} if key else {}

    def require_local_tables(self, command: str) -> None:
        """Raise ValueError if the tables are on S3, for a command that copies or measures files."""
        if self.tables_url:
            raise ValueError(
                f"{command} needs its tables in ONTIME_DATA_DIR, and ONTIME_TABLES_URL is "
                f"{self.tables_url}: unset it"
            )

    @property
    def tables_dir(self) -> str:
        """Folder or ``s3://`` prefix of the source tables."""
        return f"{self.tables_url or self.data_dir}/tables"

    @property
    def features_dir(self) -> str:
        """Folder or ``s3://`` prefix of the feature tables."""
        return f"{self.tables_url or self.data_dir}/features"

    @property
    def reports_dir(self) -> Path:
        return self.data_dir / "reports"
