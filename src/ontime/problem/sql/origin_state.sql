-- Live state of the origin, and of all origins together (network_*).
-- Grain: one row per origin and hour, from the origin's first event on. Units: counts, minutes,
--   shares. Means and shares are smoothed by two more flights without delay, so that an empty window
--   is on time and not missing. *_last_48: of the last 48 flights, however long ago (see last_flights).
-- Known when: at the hour; events at that very moment are counted.
WITH grid AS (
    SELECT origin, unnest(generate_series(min(tick), $until, INTERVAL 1 HOUR)) AS tick
    FROM flight_hours GROUP BY origin
),
hourly AS (
    SELECT
        origin, tick,
        coalesce(sum(n_departed), 0) AS n_departed,
        coalesce(sum(dep_delay), 0) AS dep_delay,
        coalesce(sum(n_dep_late), 0) AS n_dep_late,
        coalesce(sum(n_overdue), 0) AS n_overdue,
        coalesce(sum(overdue_min), 0) AS overdue_min
    FROM (FROM flight_hours UNION ALL BY NAME FROM grid)
    GROUP BY ALL
)
SELECT
    origin,
    n_departed AS origin_n_departed_1h,
    dep_delay / (n_departed + 2) AS origin_mean_dep_delay_1h_min,
    n_dep_late / (n_departed + 2) AS origin_share_dep_late_1h,
    sum(n_departed) OVER last_3h AS origin_n_departed_3h,
    sum(dep_delay) OVER last_3h / (origin_n_departed_3h + 2) AS origin_mean_dep_delay_3h_min,
    sum(n_dep_late) OVER last_3h / (origin_n_departed_3h + 2) AS origin_share_dep_late_3h,
    n_overdue AS origin_n_overdue,
    overdue_min / (n_overdue + 2) AS origin_mean_overdue_min,
    sum(n_departed) OVER network_1h AS network_n_departed_1h,
    sum(dep_delay) OVER network_1h / (network_n_departed_1h + 2)
        AS network_mean_dep_delay_1h_min,
    sum(n_departed) OVER network_3h AS network_n_departed_3h,
    sum(dep_delay) OVER network_3h / (network_n_departed_3h + 2)
        AS network_mean_dep_delay_3h_min,
    sum(n_dep_late) OVER network_3h / (network_n_departed_3h + 2) AS network_share_dep_late_3h,
    sum(n_overdue) OVER network_1h AS network_n_overdue,
    sum(overdue_min) OVER network_1h / (network_n_overdue + 2) AS network_mean_overdue_min,
    last_value(log_delay IGNORE NULLS) OVER so_far AS origin_log_delay_last_48,
    last_value(spread IGNORE NULLS) OVER so_far AS origin_log_delay_spread_last_48,
    hourly.tick AS event_timestamp
FROM hourly
-- At an hour at which nothing changed, the state is that of the last hour at which something did.
LEFT JOIN last_flights
    ON relation = 'origin' AND key = origin AND hourly.tick = last_flights.tick
WINDOW
    so_far AS (PARTITION BY origin ORDER BY hourly.tick ROWS UNBOUNDED PRECEDING),
    last_3h AS (PARTITION BY origin ORDER BY hourly.tick ROWS BETWEEN 2 PRECEDING AND CURRENT ROW),
    network_1h AS (PARTITION BY hourly.tick),
    network_3h AS (ORDER BY hourly.tick RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW)
