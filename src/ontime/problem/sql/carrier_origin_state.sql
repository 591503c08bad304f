-- Live state of one carrier at one origin.
-- Grain: one row per carrier, origin and hour, from the pair's first event on.
-- Units: counts, minutes, shares;
--   means and shares are smoothed by two more flights without delay (see origin_state).
--   *_last_12: of the last 12 flights here, *_last_32: of the carrier's last 32 from any origin,
--   however long ago (see last_flights).
-- Known when: at the hour; events at that very moment are counted.
WITH grid AS (
    SELECT carrier, origin, unnest(generate_series(min(tick), $until, INTERVAL 1 HOUR)) AS tick
    FROM flight_hours GROUP BY carrier, origin
),
hourly AS (
    SELECT
        carrier, origin, tick,
        coalesce(sum(n_departed), 0) AS n_departed,
        coalesce(sum(dep_delay), 0) AS dep_delay,
        coalesce(sum(n_dep_late), 0) AS n_dep_late,
        coalesce(sum(n_overdue), 0) AS n_overdue,
        coalesce(sum(overdue_min), 0) AS overdue_min
    FROM (FROM flight_hours UNION ALL BY NAME FROM grid)
    GROUP BY ALL
),
-- The carrier's state at every hour of its grids, from any origin.
everywhere AS (
    SELECT
        carrier, hours.tick AS tick,
        last_value(log_delay IGNORE NULLS) OVER so_far AS log_delay,
        last_value(spread IGNORE NULLS) OVER so_far AS spread,
        last_value(share_late IGNORE NULLS) OVER so_far AS share_late
    FROM (SELECT DISTINCT carrier, tick FROM hourly) AS hours
    LEFT JOIN last_flights
        ON relation = 'carrier' AND key = carrier AND hours.tick = last_flights.tick
    WINDOW so_far AS (PARTITION BY carrier ORDER BY hours.tick ROWS UNBOUNDED PRECEDING)
)
SELECT
    hourly.carrier,
    origin,
    n_departed AS carrier_n_departed_1h,
    dep_delay / (n_departed + 2) AS carrier_mean_dep_delay_1h_min,
    sum(n_departed) OVER last_3h AS carrier_n_departed_3h,
    sum(dep_delay) OVER last_3h / (carrier_n_departed_3h + 2) AS carrier_mean_dep_delay_3h_min,
    sum(n_dep_late) OVER last_3h / (carrier_n_departed_3h + 2) AS carrier_share_dep_late_3h,
    n_overdue AS carrier_n_overdue,
    overdue_min / (n_overdue + 2) AS carrier_mean_overdue_min,
    last_value(here.log_delay IGNORE NULLS) OVER so_far AS carrier_origin_log_delay_last_12,
    everywhere.log_delay AS carrier_log_delay_last_32,
    everywhere.spread AS carrier_log_delay_spread_last_32,
    everywhere.share_late AS carrier_share_late_last_32,
    hourly.tick AS event_timestamp
FROM hourly
-- See origin_state.
LEFT JOIN last_flights AS here
    ON here.relation = 'carrier_origin'
    AND here.key = hourly.carrier || ' ' || origin
    AND hourly.tick = here.tick
LEFT JOIN everywhere
    ON everywhere.carrier = hourly.carrier AND everywhere.tick = hourly.tick
WINDOW
    so_far AS (PARTITION BY hourly.carrier, origin ORDER BY hourly.tick ROWS UNBOUNDED PRECEDING),
    last_3h AS (
        PARTITION BY hourly.carrier, origin ORDER BY hourly.tick
        ROWS BETWEEN 2 PRECEDING AND CURRENT ROW
    )
