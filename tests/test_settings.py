"""Settings: what `.env.example` says is what an empty environment gives, and mistakes stop it."""

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


def test_the_example_copied_as_it_is_changes_nothing() -> None:
    assert read(EXAMPLE).model_dump() == read(None).model_dump()


def test_every_setting_of_the_example_is_explained() -> None:
    blocks = EXAMPLE.read_text().strip().split("\n\n")
    assert [block for block in blocks if not block.startswith("# ")] == []


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.env"
    file.write_text("ONTIME_API_URL=http://file:1\nONTIME_REDIS_URL=file:2\n")
    monkeypatch.setenv("ONTIME_API_URL", "http://environment:3")
    settings = read(file)
    assert (settings.api_url, settings.redis_url) == ("http://environment:3", "file:2")


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("ONTIME_REDDIS_URL=localhost:6379\n")
    with pytest.raises(ValidationError, match="reddis_url"):
        read(file)


def test_the_embedded_parts_lie_below_var(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, var=tmp_path)
    places = [settings.mlflow_url, settings.log_url, *map(str, (settings.tables_dir,))]
    assert [place for place in places if str(tmp_path.resolve()) not in place] == []


def test_what_compose_alone_reads_is_left_to_compose(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text("POSTGRES_PASSWORD=something\nONTIME_REDIS_URL=file:2\n")
    assert read(file).redis_url == "file:2"


def test_outside_development_the_passwords_of_the_compose_file_are_refused() -> None:
    log = f"postgresql+psycopg://ontime:{DEVELOPMENT_SECRET}@postgres/ontime"
    assert Settings(_env_file=None, log_url=log).log_url == log
    with pytest.raises(ValidationError, match="ONTIME_LOG_URL"):
        Settings(_env_file=None, environment="production", log_url=log)
    own = log.replace(DEVELOPMENT_SECRET, "of-our-own")
    assert Settings(_env_file=None, environment="production", log_url=own).log_url == own


def test_a_refused_setting_does_not_print_the_passwords() -> None:
    log = "postgresql+psycopg://ontime:of-our-own@postgres/ontime"
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None, log_url=log, champion_poll_s=-1, environment="elsewhere")
    assert "of-our-own" not in str(refused.value)
