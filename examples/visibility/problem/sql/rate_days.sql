-- Shared by the two views of rates (not a feature view itself).
-- Grain: one row per airport x local hour x day: how many windows became known in the
--   last 7 and 28 days.
-- Known when: `day` is a daily tick (08:00 UTC); windows count whose outcome was known by then.
WITH days AS (
    SELECT unnest(generate_series(
        date_trunc('day', min(outcome_known_at)) + INTERVAL 8 HOUR, $until, INTERVAL 1 DAY
    )) AS day
    FROM visibility_windows
)
SELECT
    airport,
    local_hour_of(window_start) AS local_hour,
    count(*) FILTER (outcome_known_at > day - INTERVAL 7 DAY) AS n_7d,
    count(*) FILTER (is_low AND outcome_known_at > day - INTERVAL 7 DAY) AS n_low_7d,
    count(*) AS n_28d,
    count(*) FILTER (is_low) AS n_low_28d,
    day
FROM days JOIN visibility_windows
    ON outcome_known_at <= day AND outcome_known_at > day - INTERVAL 28 DAY
GROUP BY ALL
