-- How often visibility at the airport fell below 3 miles: windows of the last 7 and 28 days.
-- Grain: one row per airport x day, while a window became known in the last 28 days.
-- Units: shares; twelve windows are added, one of them low, so that no rate is 0.
-- Known when: at the daily tick (08:00 UTC), from outcomes known by then.
SELECT
    airport,
    (sum(n_low_7d) + 1) / (sum(n_7d) + 12) AS airport_low_rate_7d,
    (sum(n_low_28d) + 1) / (sum(n_28d) + 12) AS airport_low_rate_28d,
    day AS event_timestamp
FROM rate_days
GROUP BY airport, day
