-- Intermediate table: the last flights of an origin, a carrier, a destination and pairs of them.
-- Grain: one row per relation, key and hourly tick at which the state of one of its flights changed.
-- Units: log_delay is sign(d) ln(1 + |d| / 10) of a delay of d minutes. Its mean and the share of late
--   flights are weighted, linearly from 1 for the oldest flight to n_last for the newest; spread is
--   the plain standard deviation. Before there were n_last flights, those missing count as flights
--   without delay; the spread counts two more of them (see origin_state).
-- Known when: at `tick`. A flight counts from its scheduled departure on, or from its departure if
--   that is earlier. Its delay at the tick is the arrival's if the outcome is known, else the
--   departure's if it has departed, else the minutes that it is overdue.
-- An outcome without a landing is late with a delay of 0.
-- Can be built in parts of the keys (see in_part): no key needs the flights of another.
WITH numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY relation, key ORDER BY counted_from, flight_id) AS number
    FROM (
        SELECT
            flight_id, departed_at, outcome_known_at,
            epoch(scheduled_departure) / 60 AS scheduled_min,
            least(scheduled_departure, departed_at) AS counted_from,  -- `least` ignores NULL
            log_delay(dep_delay_min) AS departure_log_delay,
            log_delay(coalesce(arr_delay_min, 0)) AS outcome_log_delay,
            (dep_delay_min >= late_min())::INT AS departure_is_late,
            is_late::INT AS outcome_is_late,
            unnest(last_flights_of(carrier, origin, dest), recursive := TRUE)
        FROM flights
    )
    WHERE in_part(key)
),
ticks AS (
    SELECT relation, key, n_last, tick, max(number) AS number
    FROM (
        SELECT relation, key, n_last, ceil_hour(counted_from) AS tick, number FROM numbered
        UNION ALL
        SELECT relation, key, n_last, tick, NULL
        FROM (
            SELECT tick, unnest(last_flights_of(carrier, origin, dest), recursive := TRUE)
            FROM flight_hours
        )
        WHERE in_part(key)
    )
    GROUP BY relation, key, n_last, tick
),
newest AS (
    -- The highest number that counts by the tick, as a running maximum: Spark compares each row of an
    -- ASOF join with all rows of its key. NULL before the first flight counts.
    SELECT
        relation, key, n_last, tick,
        max(number) OVER (
            PARTITION BY relation, key ORDER BY tick ROWS UNBOUNDED PRECEDING
        ) AS newest
    FROM ticks
),
states AS (
    SELECT
        relation, key, tick, n_last,
        (number - newest + n_last)::INT AS weight,
        CASE
            WHEN outcome_known_at <= tick THEN outcome_log_delay
            WHEN departed_at <= tick THEN departure_log_delay
            ELSE log_delay(epoch(tick) / 60 - scheduled_min)
        END AS log_delay,
        CASE
            WHEN outcome_known_at <= tick THEN outcome_is_late
            WHEN departed_at <= tick THEN departure_is_late
            ELSE (epoch(tick) / 60 - scheduled_min >= late_min())::INT
        END AS n_late
    FROM (
        -- No filter here: DuckDB would guess fewer of these rows than flights, and keep them in memory
        -- instead of the flights.
        SELECT *, unnest(generate_series(greatest(newest - n_last + 1, 1), newest)) AS number
        FROM newest
    )
    JOIN numbered USING (relation, key, n_last, number)
),
sums AS (
    SELECT
        relation, key, tick,
        any_value(n_last * (n_last + 1) / 2) AS total_weight,
        sum(weight * log_delay) AS weighted,
        sum(weight * n_late) AS weighted_late,
        sum(log_delay) / (count(*) + 2) AS mean,
        sum(log_delay * log_delay) / (count(*) + 2) AS mean_square
    FROM states
    GROUP BY relation, key, tick
)
SELECT
    relation, key, tick,
    weighted / total_weight / 1000 AS log_delay,
    weighted_late / total_weight AS share_late,
    sqrt(mean_square - mean * mean) / 1000 AS spread
FROM sums
