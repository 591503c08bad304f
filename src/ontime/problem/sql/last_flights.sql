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
WITH numbered AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY relation, key ORDER BY counted_from, flight_id) AS number
    FROM (
        SELECT
            flight_id, scheduled_departure, departed_at, outcome_known_at,
            dep_delay_min, arr_delay_min, is_late,
            least(scheduled_departure, departed_at) AS counted_from,  -- `least` ignores NULL
            unnest(last_flights_of(carrier, origin, dest), recursive := TRUE)
        FROM flights
    )
),
ticks AS (
    SELECT DISTINCT * FROM (
        SELECT tick, unnest(last_flights_of(carrier, origin, dest), recursive := TRUE) FROM flight_hours
    )
),
newest AS (
    -- The highest number that counts by the tick, as a running maximum: Spark compares each row of an
    -- ASOF join with all rows of its key.
    SELECT relation, key, n_last, tick, newest
    FROM (
        SELECT
            relation, key, n_last, tick,
            max(number) OVER (PARTITION BY relation, key ORDER BY moment) AS newest
        FROM (
            SELECT relation, key, n_last, tick, tick AS moment, NULL::BIGINT AS number FROM ticks
            UNION ALL
            SELECT relation, key, n_last, NULL, counted_from, number FROM numbered
        )
    )
    WHERE tick IS NOT NULL AND newest IS NOT NULL
),
states AS (
    SELECT
        relation, key, tick, n_last,
        n_last * (n_last + 1) / 2 AS total_weight,
        number - newest + n_last AS weight,
        CASE
            WHEN outcome_known_at <= tick THEN coalesce(arr_delay_min, 0)
            WHEN departed_at <= tick THEN dep_delay_min
            ELSE date_diff('minute', scheduled_departure, tick)
        END::DOUBLE AS delay,
        (CASE WHEN outcome_known_at <= tick THEN is_late ELSE delay >= late_min() END)::INT AS n_late,
        -- In whole thousandths, because sums of whole numbers do not depend on their order.
        round(1000 * sign(delay) * ln(1 + abs(delay) / 10))::BIGINT AS log_delay
    FROM (
        SELECT *, unnest(generate_series(greatest(newest - n_last + 1, 1), newest)) AS number
        FROM newest
    )
    JOIN numbered USING (relation, key, n_last, number)
),
sums AS (
    SELECT
        relation, key, tick,
        any_value(total_weight) AS total_weight,
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
