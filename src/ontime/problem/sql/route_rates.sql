-- How often the route's flights were late: the last 7 and 28 days.
-- Grain: one row per origin, dest and day, while there was an outcome in the last 28 days.
-- Units: shares, minutes, counts. Rates are smoothed by ten more flights, two of them late, so that
--   one flight does not make a rate of 0 or 1.
-- Known when: at the daily tick, from outcomes known by then.
WITH grid AS (
    SELECT origin, dest, unnest(generate_series(min(day), $until, INTERVAL 1 DAY)) AS day
    FROM outcome_days GROUP BY origin, dest
),
daily AS (
    SELECT
        origin, dest, day,
        count(n_late) AS n,
        coalesce(sum(n_late), 0) AS n_late,
        coalesce(sum(arr_delay), 0) AS arr_delay
    FROM (FROM outcome_days UNION ALL BY NAME FROM grid)
    GROUP BY ALL
)
SELECT
    origin,
    dest,
    (sum(n_late) OVER last_7d + 2) / (sum(n) OVER last_7d + 10) AS route_late_rate_7d,
    (sum(n_late) OVER last_28d + 2) / (sum(n) OVER last_28d + 10) AS route_late_rate_28d,
    sum(arr_delay) OVER last_28d / (sum(n) OVER last_28d + 10) AS route_mean_arr_delay_28d_min,
    sum(n) OVER last_28d AS route_n_flights_28d,
    day AS event_timestamp
FROM daily
WINDOW
    last_7d AS (PARTITION BY origin, dest ORDER BY day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW),
    last_28d AS (PARTITION BY origin, dest ORDER BY day ROWS BETWEEN 27 PRECEDING AND CURRENT ROW)
QUALIFY sum(n) OVER last_28d > 0
