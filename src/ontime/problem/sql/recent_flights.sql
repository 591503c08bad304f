-- Intermediate table: the last flights to a destination and of a flight number, one by one.
-- Grain: one row per relation, key, hourly tick at which one of its flights changed, and position.
--   Position 1 is the flight that was scheduled last; there are n_last positions.
-- Units: minutes; a moment is in minutes since 1970-01-01 UTC.
-- Known when: at `tick`. A flight is in the sequence from its scheduled departure on. Its departure
--   delay is known once it has departed, its arrival delay and whether it is late with its outcome;
--   before that they are NULL, as is the delay of what never happened.
-- Can be built in parts of the keys (see in_part): no key needs the flights of another.
WITH numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY relation, key ORDER BY scheduled_departure, flight_id
        ) AS number
    FROM (
        SELECT
            flight_id, carrier, flight, dest, scheduled_departure,
            epoch(scheduled_departure) / 60 AS scheduled_epoch_min,
            date_diff('minute', scheduled_departure, scheduled_arrival) AS block_min,
            departed_at, outcome_known_at, dep_delay_min, arr_delay_min, is_late,
            unnest(recent_flights_of(carrier, flight, dest), recursive := TRUE)
        FROM flights
    )
    WHERE in_part(key)
),
changes AS (
    SELECT relation, key, n_last, tick, max(number) AS number
    FROM (
        SELECT relation, key, n_last, ceil_hour(scheduled_departure) AS tick, number FROM numbered
        UNION ALL
        SELECT relation, key, n_last, ceil_hour(departed_at), NULL FROM numbered
        WHERE departed_at > scheduled_departure
        UNION ALL
        SELECT relation, key, n_last, ceil_hour(outcome_known_at), NULL FROM numbered
        WHERE outcome_known_at > scheduled_departure
    )
    GROUP BY relation, key, n_last, tick
),
newest AS (
    SELECT
        relation, key, n_last, tick,
        max(number) OVER (PARTITION BY relation, key ORDER BY tick) AS newest
    FROM changes
)
SELECT
    relation, carrier, flight, dest, tick,
    newest - number + 1 AS position,
    scheduled_epoch_min,
    CASE WHEN departed_at <= tick THEN dep_delay_min END AS dep_delay_min,
    CASE WHEN outcome_known_at <= tick THEN arr_delay_min END AS arr_delay_min,
    CASE WHEN outcome_known_at <= tick THEN is_late END::INT AS is_late,
    block_min
FROM (
    SELECT
        relation, key, tick, newest,
        unnest(generate_series(greatest(newest - n_last + 1, 1), newest)) AS number
    FROM newest
)
JOIN numbered USING (relation, key, number)
