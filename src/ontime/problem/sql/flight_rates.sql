-- How often this flight number was late: the last 28 days.
-- Grain: one row per carrier, flight and day, while there was an outcome in the last 28 days.
-- Units: shares, minutes, counts. Rates are smoothed by ten more flights, two of them late, so that
--   one flight does not make a rate of 0 or 1.
-- Known when: at the daily tick, from outcomes known by then.
-- Can be built in parts of the keys (see in_part): there are many flight numbers, each with every day.
WITH outcomes AS (
    SELECT carrier, flight, day, n_late, arr_delay
    FROM outcome_days
    WHERE in_part(carrier || ' ' || flight)
),
grid AS (
    SELECT carrier, flight, unnest(generate_series(min(day), $until, INTERVAL 1 DAY)) AS day
    FROM outcomes GROUP BY carrier, flight
),
daily AS (
    SELECT
        carrier, flight, day,
        count(n_late) AS n,
        coalesce(sum(n_late), 0) AS n_late,
        coalesce(sum(arr_delay), 0) AS arr_delay
    FROM (FROM outcomes UNION ALL BY NAME FROM grid)
    GROUP BY ALL
)
SELECT
    carrier,
    flight,
    (sum(n_late) OVER last_28d + 2) / (sum(n) OVER last_28d + 10) AS flight_late_rate_28d,
    sum(arr_delay) OVER last_28d / (sum(n) OVER last_28d + 10) AS flight_mean_arr_delay_28d_min,
    sum(n) OVER last_28d AS flight_n_flights_28d,
    day AS event_timestamp
FROM daily
WINDOW
    last_28d AS (PARTITION BY carrier, flight ORDER BY day ROWS BETWEEN 27 PRECEDING AND CURRENT ROW)
QUALIFY sum(n) OVER last_28d > 0
