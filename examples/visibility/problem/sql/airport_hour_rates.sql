-- The same as airport_rates for windows that start in one local hour.
-- Grain: one row per airport x local_hour x day. Units: shares; twelve windows are
--   added, one of them low.
-- Known when: at the daily tick (08:00 UTC), from outcomes known by then.
SELECT
    airport,
    local_hour,
    (n_low_28d + 1) / (n_28d + 12) AS airport_hour_low_rate_28d,
    day AS event_timestamp
FROM rate_days
