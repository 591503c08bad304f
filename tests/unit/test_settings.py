"""Settings: `.env.example` states the defaults, and invalid values raise."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from ontime.settings import DEVELOPMENT_SECRET, ROOT, Settings

EXAMPLE = ROOT / ".env.example"
ASSIGNMENT = re.compile(r"^(ONTIME_[A-Z0-9_]+)=(.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _at_the_root_with_nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in [name for name in os.environ if name.startswith("ONTIME_")]:
        monkeypatch.delenv(name)


def read(env_file: Path | None) -> Settings:
    return Settings(_env_file=env_file)


def test_the_example_lists_every_setting_once_in_the_order_of_the_class() -> None:
    listed = [name for name, _ in ASSIGNMENT.findall(EXAMPLE.read_text())]
    assert listed == [f"ONTIME_{name.upper()}" for name in Settings.model_fields]


def test_an_unchanged_copy_of_the_example_gives_the_defaults() -> None:
    assert read(EXAMPLE).model_dump() == read(None).model_dump()


def test_every_setting_of_the_example_has_a_comment() -> None:
    blocks = EXAMPLE.read_text().strip().split("\n\n")
    assert [block for block in blocks if not block.startswith("# ")] == []


def test_the_environment_has_priority_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.env"
    file.write_text("ONTIME_API_URL=http://file:1\nONTIME_REDIS_URL=file:2\n")
    monkeypatch.setenv("ONTIME_API_URL", "http://environment:3")
    settings = read(file)
    assert (settings.api_url, settings.redis_url) == ("http://environment:3", "file:2")


def test_canary_shares_are_numbers_separated_by_commas_that_increase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read(None).canary_shares == ()
    monkeypatch.setenv("ONTIME_CANARY_SHARES", "0.05,0.25")
    assert read(None).canary_shares == (0.05, 0.25)
    for wrong in ("0", "1", "0.5,0.25", "0.1,0.1", "-0.1", "nan", "5%"):
        monkeypatch.setenv("ONTIME_CANARY_SHARES", wrong)
        with pytest.raises(ValidationError, match="canary_shares"):
            read(None)


def test_a_misspelt_setting_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("ONTIME_REDDIS_URL=localhost:6379\n")
    with pytest.raises(ValidationError, match="reddis_url"):
        read(file)


def test_the_embedded_services_are_below_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    folders = (settings.tables_dir, settings.features_dir, settings.reports_dir)
    locations = [settings.mlflow_url, settings.prediction_db_url, *map(str, folders)]
    assert [place for place in locations if str(tmp_path.resolve()) not in place] == []


def test_tables_and_features_are_on_s3_and_everything_else_is_not(tmp_path: Path) -> None:
    url = "s3://bucket.of-tables/a_prefix/v=1"
    settings = Settings(_env_file=None, data_dir=tmp_path, tables_url=f"{url}/")
    assert (settings.tables_dir, settings.features_dir) == (f"{url}/tables", f"{url}/features")
    assert settings.reports_dir == tmp_path.resolve() / "reports"
    with pytest.raises(ValueError, match=f"make x .* ONTIME_TABLES_URL is {url}: unset it"):
        settings.require_local_tables("make x")
    read(None).require_local_tables("make x")


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ("/data/tables", "/data/tables"),
        ("https://bucket.s3.amazonaws.com", "https://bucket.s3.amazonaws.com"),
        ("s3:bucket", "s3:bucket"),
        ("s3://", "s3:"),
        ("s3://bucket/a//b", "s3://bucket/a//b"),
        ("s3://bucket/a b", "s3://bucket/a b"),
        ("s3://bucket/*", r"s3://bucket/\*"),
        ("s3://key:of-our-own@bucket/a", "bucket/a"),
        ("s3://bucket/a?secret_key=of-our-own", "s3://bucket/a"),
    ],
)
def test_a_place_of_tables_that_is_no_prefix_on_s3_is_rejected(wrong: str, shown: str) -> None:
    with pytest.raises(ValidationError, match=rf"like s3://bucket/prefix.*Given: {shown}") as error:
        Settings(_env_file=None, tables_url=wrong)
    assert "of-our-own" not in str(error.value)


def test_spark_with_tables_on_s3_is_rejected() -> None:
    rule = r"ONTIME_ENGINE=spark needs tables in data_dir.*ONTIME_TABLES_URL is s3://bucket"
    with pytest.raises(ValidationError, match=rule):
        Settings(_env_file=None, tables_url="s3://bucket", engine="spark")


def test_variables_of_compose_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("POSTGRES_PASSWORD=something\nONTIME_REDIS_URL=file:2\n")
    assert read(file).redis_url == "file:2"


def test_production_rejects_the_passwords_of_the_compose_file() -> None:
    url = f"postgresql+psycopg://ontime:{DEVELOPMENT_SECRET}@postgres/ontime"
    assert Settings(_env_file=None, prediction_db_url=url).prediction_db_url == url
    with pytest.raises(ValidationError, match="ONTIME_PREDICTION_DB_URL"):
        Settings(_env_file=None, environment="production", prediction_db_url=url)
    own = url.replace(DEVELOPMENT_SECRET, "of-our-own")
    accepted = Settings(_env_file=None, environment="production", prediction_db_url=own)
    assert accepted.prediction_db_url == own


def test_production_rejects_a_stack_in_which_a_service_has_a_default_password() -> None:
    some = "postgres=yes grafana= s3="
    assert Settings(_env_file=None, passwords_set=some).passwords_set == some
    with pytest.raises(ValidationError, match=r"these do not: grafana, s3\."):
        Settings(_env_file=None, environment="production", passwords_set=some)
    complete = "postgres=yes grafana=yes s3=yes"
    assert Settings(_env_file=None, environment="production", passwords_set=complete)


def test_an_invalid_setting_does_not_print_the_passwords() -> None:
    url = "postgresql+psycopg://ontime:of-our-own@postgres/ontime"
    with pytest.raises(ValidationError) as error:
        Settings(_env_file=None, prediction_db_url=url, champion_poll_s=-1, environment="elsewhere")
    assert "of-our-own" not in str(error.value)
