-- Intermediate table of the live-state views.
-- Grain: one row per flight and hourly tick at which it is counted. Units: minutes, counts.
-- Known when: at `tick`. A departure and a landing count at the first tick at or after them. A flight
--   is overdue at every tick from its scheduled departure until it departs or its cancellation is
--   known; until then the two are equal.
-- An outcome counts as an arrival: a flight that was cancelled or diverted is late with a delay of 0.
SELECT
    carrier, origin, dest,
    ceil_hour(departed_at) AS tick,
    1 AS n_departed, dep_delay_min AS dep_delay, (dep_delay_min >= late_min())::INT AS n_dep_late,
    0 AS n_arrived, 0 AS arr_delay, 0 AS n_arr_late,
    0 AS n_overdue, 0 AS overdue_min
FROM flights
WHERE departed_at IS NOT NULL
UNION ALL
SELECT
    carrier, origin, dest,
    ceil_hour(outcome_known_at) AS tick,
    0, 0, 0,
    1, coalesce(arr_delay_min, 0), is_late::INT,
    0, 0
FROM flights
WHERE outcome_known_at IS NOT NULL
UNION ALL
SELECT
    carrier, origin, dest,
    tick,
    0, 0, 0,
    0, 0, 0,
    1, date_diff('minute', scheduled_departure, tick)
FROM (
    SELECT
        *,
        unnest(generate_series(
            ceil_hour(scheduled_departure),
            -- Up to before the departure or the known cancellation; without either up to the end
            -- (`least` ignores NULL).
            least(coalesce(departed_at, outcome_known_at) - INTERVAL 1 MICROSECOND, $until),
            INTERVAL 1 HOUR
        )) AS tick
    FROM flights
)
