"""Where things are: every path and address, read once from ``ONTIME_*`` variables.

The defaults are the embedded system (files and SQLite below ``var/``); each real part is
switched on by its own variable, and nothing else in the code asks where it runs.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# The repository root of a development install: `var/` lies there whatever the working directory.
ROOT = Path(__file__).resolve().parents[2]
# In every password that docker-compose.yml brings along.
DEVELOPMENT_SECRET = "development-only"  # noqa: S105 - the one that is meant to be known


class Settings(BaseSettings):
    """All settings; ``.env.example`` lists them with these defaults. Unusable values fail here."""

    model_config = SettingsConfigDict(
        env_prefix="ONTIME_",
        env_file=".env",
        env_ignore_empty=True,
        extra="forbid",
        dotenv_filtering="match_prefix",  # Compose reads the same file, with names of its own
        hide_input_in_errors=True,  # addresses hold passwords
    )

    environment: Literal["development", "production"] = "development"
    var: Path = Field(ROOT / "var", description="everything that running writes")
    mlflow_url: str = Field("", description="tracking and registry; empty: SQLite below var")
    log_url: str = Field("", description="prediction log, SQLAlchemy URL; empty: SQLite below var")
    feast_registry_url: str = Field("", description="SQL registry; empty: a file below var")
    redis_url: str = Field(
        "", description="Feast online store, host:port[,password=...]; empty: SQLite below var"
    )
    # Not 8000: Prefect's temporary server takes a port between 8000 and 8999.
    api_url: str = Field("http://127.0.0.1:9000", description="where clients find the API")
    champion_poll_s: float = Field(5.0, ge=0, description="how often the API follows; 0: never")
    retrain_by_event: bool = Field(
        False, description="start a retrain by a Prefect event and its automation, not in process"
    )
    code_revision: str = Field("", description="the commit, for runs where there is no git")
    shadow: bool = Field(True, description="let a challenger score live traffic in the background")

    @model_validator(mode="after")
    def fill_embedded_defaults(self) -> "Settings":
        self.var = self.var.resolve()
        self.mlflow_url = self.mlflow_url or f"sqlite:///{self.var}/mlflow/mlflow.db"
        self.log_url = self.log_url or f"sqlite:///{self.var}/log/predictions.db"
        return self

    @model_validator(mode="after")
    def refuse_development_secrets(self) -> "Settings":
        addresses = ("mlflow_url", "log_url", "feast_registry_url", "redis_url")
        default = [name for name in addresses if DEVELOPMENT_SECRET in getattr(self, name)]
        if self.environment == "production" and default:
            named = ", ".join(f"ONTIME_{name.upper()}" for name in default)
            raise ValueError(
                f"in production no address holds the password {DEVELOPMENT_SECRET!r}, and these "
                f"do: {named}. Set the passwords, or ONTIME_ENVIRONMENT=development"
            )
        return self

    @property
    def tables_dir(self) -> Path:
        return self.var / "tables"

    @property
    def features_dir(self) -> Path:
        return self.var / "features"

    @property
    def reports_dir(self) -> Path:
        return self.var / "reports"
