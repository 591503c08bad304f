"""Migrations on SQLite: any older database becomes the schema, a newer one is left alone."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from ontime.errors import PredictionLogUnavailable
from ontime.storage import migrations
from ontime.storage.engine import open_engine
from ontime.storage.prediction_log import PredictionLog
from ontime.storage.schema import METADATA, SCHEMA_VERSION
from tests.unit.storage.old_database import make_old_database, read_tables


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log/predictions.db"


def migrate(url: str) -> None:
    log = PredictionLog(url)
    log.migrate()
    log.close()


def test_the_newest_migration_is_the_schema_version() -> None:
    folder = Path(migrations.__file__).parent
    assert ScriptDirectory(str(folder)).get_current_head() == SCHEMA_VERSION


@pytest.mark.parametrize("old", [False, True], ids=["empty", "old"])
def test_a_migrated_database_has_the_tables_of_the_schema(url: str, old: bool) -> None:
    if old:
        make_old_database(url)
    migrate(url)
    with open_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_an_old_database_is_converted_without_losing_a_row(url: str) -> None:
    old = make_old_database(url)
    migrate(url)
    new = read_tables(url)
    assert new.pop("api_keys") == []
    assert {name: len(rows) for name, rows in new.items()} == {
        name: len(rows) for name, rows in old.items()
    }
    assert {(row["client"], row["production_traffic"]) for row in new["predictions"]} == {
        (None, True)
    }
    for before, after in zip(old["predictions"], new["predictions"], strict=True):
        kept = before.keys() & after.keys()
        assert {name: before[name] for name in kept} == {name: after[name] for name in kept}
        assert after["decision"] is None
    for before, after in zip(old["outcomes"], new["outcomes"], strict=True):
        assert after["details"].items() <= before.items()
    assert [row["label"] for row in new["outcomes"]] == [False, True, False]
    assert new["decisions"][0]["reasons"] == [
        {"code": code, "value": None, "limit": None, "text": sentence}
        for code, sentence in zip(
            ("too_few_labels", "held_back_log_loss"), old["decisions"][0]["reasons"], strict=True
        )
    ]
    assert [row["result"] for row in new["decisions"]] == ["promoted", "rejected", None]
    assert new["decisions"][0]["evidence"] == {"scores": [{"calibration_bias": 0.1}], "n": None}


def test_the_tables_that_an_old_database_lacks_are_created(url: str) -> None:
    make_old_database(url)
    with open_engine(url).begin() as connection:
        connection.execute(text("DROP TABLE decisions"))
    migrate(url)
    assert read_tables(url)["decisions"] == []


def test_processes_that_migrate_at_the_same_time_wait_for_each_other(url: str) -> None:
    old = make_old_database(url)
    with ThreadPoolExecutor(4) as processes:
        list(processes.map(migrate, [url] * 4))
    assert len(read_tables(url)["predictions"]) == len(old["predictions"])


def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_old_database(url)
    monkeypatch.setattr(migrations, "check_revision", lambda connection: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        migrate(url)
    assert read_tables(url) == old


def test_without_migrations_a_log_is_unavailable_and_stays_empty(url: str) -> None:
    log = PredictionLog(url)
    with pytest.raises(PredictionLogUnavailable, match=r"must be \d+ and is None: run the migrat"):
        log.check()
    assert inspect(log.engine).get_table_names() == []
    migrate(url)
    log.check()
    log.close()


def test_a_database_that_is_newer_than_the_code_is_left_alone(url: str) -> None:
    migrate(url)
    log = PredictionLog(url)
    with log.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (log.migrate, log.check):
        with pytest.raises(PredictionLogUnavailable, match="is 9999: update this code"):
            use()
    log.close()


def test_a_migration_logs_nothing(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        migrate(url)
    assert caplog.messages == []
