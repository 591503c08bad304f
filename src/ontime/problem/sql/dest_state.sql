-- Live state of the destination: departures for it from the origins, and their arrivals.
-- Grain: one row per dest and hour, from the destination's first event on.
-- Units: counts, minutes, shares;
--   means and shares are smoothed by two more flights without delay (see origin_state).
--   *_last_8: of the last 8 flights, however long ago (see last_flights).
-- Known when: at the hour; events at that very moment are counted.
WITH grid AS (
    SELECT dest, unnest(generate_series(min(tick), $until, INTERVAL 1 HOUR)) AS tick
    FROM flight_hours GROUP BY dest
),
hourly AS (
    SELECT
        dest, tick,
        coalesce(sum(n_departed), 0) AS n_departed,
        coalesce(sum(dep_delay), 0) AS dep_delay,
        coalesce(sum(n_arrived), 0) AS n_arrived,
        coalesce(sum(arr_delay), 0) AS arr_delay,
        coalesce(sum(n_arr_late), 0) AS n_arr_late,
        coalesce(sum(n_overdue), 0) AS n_overdue,
        coalesce(sum(overdue_min), 0) AS overdue_min
    FROM (FROM flight_hours UNION ALL BY NAME FROM grid)
    GROUP BY ALL
)
SELECT
    dest,
    sum(n_departed) OVER last_3h AS dest_n_departed_3h,
    sum(dep_delay) OVER last_3h / (dest_n_departed_3h + 2) AS dest_mean_dep_delay_3h_min,
    sum(n_arrived) OVER last_3h AS dest_n_arrived_3h,
    sum(arr_delay) OVER last_3h / (dest_n_arrived_3h + 2) AS dest_mean_arr_delay_3h_min,
    sum(n_arr_late) OVER last_3h / (dest_n_arrived_3h + 2) AS dest_share_arr_late_3h,
    n_overdue AS dest_n_overdue,
    overdue_min / (n_overdue + 2) AS dest_mean_overdue_min,
    last_value(log_delay IGNORE NULLS) OVER so_far AS dest_log_delay_last_8,
    last_value(spread IGNORE NULLS) OVER so_far AS dest_log_delay_spread_last_8,
    hourly.tick AS event_timestamp
FROM hourly
-- See origin_state.
LEFT JOIN last_flights ON relation = 'dest' AND key = dest AND hourly.tick = last_flights.tick
WINDOW
    so_far AS (PARTITION BY dest ORDER BY hourly.tick ROWS UNBOUNDED PRECEDING),
    last_3h AS (PARTITION BY dest ORDER BY hourly.tick ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)
