"""The problem: everything that is about flights. A fork replaces this package and its tests.

Generic code imports these names from ``ontime.problem`` and nothing from the modules below it.

Texts and constants (`definition`)
    NAME, QUESTION, POSITIVE_LABEL, PREDICTION_MOMENT, INSTANCES, LIMITS
    LOCAL_ZONE              the zone of local days and hours
    PREDICTION_INTERVAL     how often predictions are made; the replay's clock ticks at it
    DEMO_START, DEMO_END    UTC; the first model is trained on what was known at the start
    BACKTEST_MONTHS, TUNING_MONTHS, HOLDOUT_FROM    "YYYY-MM"
    COST_FALSE_ALARM, COST_MISS     the decision threshold follows from them
    RATE_FEATURE            a stored feature that is itself a rate of the label
    FIRST_GATE_BASELINES    what a first model must beat
    MIN_*                   rules sized to the traffic
    SLICES                  slice name -> function of rows, str [n]
    local_day(rows)         datetime64[D] [n]: the clusters of the bootstrap, the folds of training
Source (`source`, `source_tables`)
    SOURCE_TABLES, read_source(progress, location, scratch) -> tables, counts
    hide_after(tables, moment)      the tables as known at a moment, for the no-look-ahead test
Examples (`examples`)
    examples(tables)        one row per prediction request, see its docstring for the columns
    request_of(row), outcome_of(row)    the JSON that a client sends for a row
Features (`views`, `request_features`, ``sql/``)
    VIEWS, ENTITY_KEYS, FEATURE_SPEC, SQL_FOLDER, SQL_MACROS, INTERMEDIATE_TABLES
                            SQL may ask in_part(key), see `ontime.features.builder`
    AGGREGATES              inputs that aggregate the last events, however old; the backtest also
                            fits LightGBM without them
    request_features(columns, as_of), entity_key_columns(columns)   arrays in, arrays out; the
                            sequences of a view of events too, by the view's name
API (`api`)
    Instance                pydantic model with instance_id, due_at, check_as_of(as_of),
                            is_trained_for(as_of)
    Outcome                 pydantic model with instance_id, label, known_at, details,
                            earliest_known_at(instance)
    EXAMPLE_AS_OF, EXAMPLE_INSTANCE, EXAMPLE_OUTCOME    JSON values
Drills (`incidents`)
    DRILLS_START            start of the undisturbed replay before the drills
    DRILLS                  incidents, see `ontime.data.drill_types`; all begin after the same weeks
Pages (`page`, ``templates/``)
    BOARD_TITLE, BOARD_COLUMNS, BOARD_WINDOW, board_row(instance), outcome_text(details)
    DECISION_TEXTS, RATE_TEXT, FIELD_NAMES, GROUP_NAMES     words for people
    SLIDERS, SCENARIOS      inputs that a visitor may change
    TEMPLATES_FOLDER        about.html, and any template of ``serving/templates`` to replace
Hyperparameters
    HYPERPARAMETERS_FILE    JSON; written by ``make tune``
"""

from pathlib import Path

from ontime.problem.api import (
    EXAMPLE_AS_OF,
    EXAMPLE_INSTANCE,
    EXAMPLE_OUTCOME,
    Instance,
    Outcome,
)
from ontime.problem.definition import (
    BACKTEST_MONTHS,
    COST_FALSE_ALARM,
    COST_MISS,
    DEMO_END,
    DEMO_START,
    FIRST_GATE_BASELINES,
    HOLDOUT_FROM,
    INSTANCES,
    LIMITS,
    LOCAL_ZONE,
    MIN_DRIFT_INSTANCES,
    MIN_GATE_INSTANCES,
    MIN_MONITORING_DAYS,
    MIN_MONITORING_LABELS,
    MIN_SLICE_INSTANCES,
    NAME,
    POSITIVE_LABEL,
    PREDICTION_INTERVAL,
    PREDICTION_MOMENT,
    QUESTION,
    RATE_FEATURE,
    SLICES,
    TUNING_MONTHS,
    local_day,
)
from ontime.problem.examples import examples, outcome_of, request_of
from ontime.problem.incidents import DRILLS, DRILLS_START
from ontime.problem.page import (
    BOARD_COLUMNS,
    BOARD_TITLE,
    BOARD_WINDOW,
    DECISION_TEXTS,
    FIELD_NAMES,
    GROUP_NAMES,
    RATE_TEXT,
    SCENARIOS,
    SLIDERS,
    TEMPLATES_FOLDER,
    board_row,
    outcome_text,
)
from ontime.problem.request_features import entity_key_columns, request_features
from ontime.problem.source import read_source
from ontime.problem.source_tables import SOURCE_TABLES, hide_after
from ontime.problem.views import (
    AGGREGATES,
    ENTITY_KEYS,
    FEATURE_SPEC,
    INTERMEDIATE_TABLES,
    SQL_FOLDER,
    SQL_MACROS,
    VIEWS,
)

HYPERPARAMETERS_FILE = Path(__file__).with_name("hyperparameters.json")

__all__ = [
    "AGGREGATES",
    "BACKTEST_MONTHS",
    "BOARD_COLUMNS",
    "BOARD_TITLE",
    "BOARD_WINDOW",
    "COST_FALSE_ALARM",
    "COST_MISS",
    "DECISION_TEXTS",
    "DEMO_END",
    "DEMO_START",
    "DRILLS",
    "DRILLS_START",
    "ENTITY_KEYS",
    "EXAMPLE_AS_OF",
    "EXAMPLE_INSTANCE",
    "EXAMPLE_OUTCOME",
    "FEATURE_SPEC",
    "FIELD_NAMES",
    "FIRST_GATE_BASELINES",
    "GROUP_NAMES",
    "HOLDOUT_FROM",
    "HYPERPARAMETERS_FILE",
    "INSTANCES",
    "INTERMEDIATE_TABLES",
    "LIMITS",
    "LOCAL_ZONE",
    "MIN_DRIFT_INSTANCES",
    "MIN_GATE_INSTANCES",
    "MIN_MONITORING_DAYS",
    "MIN_MONITORING_LABELS",
    "MIN_SLICE_INSTANCES",
    "NAME",
    "POSITIVE_LABEL",
    "PREDICTION_INTERVAL",
    "PREDICTION_MOMENT",
    "QUESTION",
    "RATE_FEATURE",
    "RATE_TEXT",
    "SCENARIOS",
    "SLICES",
    "SLIDERS",
    "SOURCE_TABLES",
    "SQL_FOLDER",
    "SQL_MACROS",
    "TEMPLATES_FOLDER",
    "TUNING_MONTHS",
    "VIEWS",
    "Instance",
    "Outcome",
    "board_row",
    "entity_key_columns",
    "examples",
    "hide_after",
    "local_day",
    "outcome_of",
    "outcome_text",
    "read_source",
    "request_features",
    "request_of",
]
