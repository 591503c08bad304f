-- Step shared by the rolling-rate views (not a feature view itself).
-- Grain: one row a flight whose outcome is known.
-- Known when: `day` is the first daily tick (08:00 UTC, the middle of New York's night) at or after
--   the outcome became known.
-- A flight that was cancelled or diverted is late, by 0 minutes: it has no delay to measure.
SELECT
    carrier, flight, origin, dest,
    extract('hour' FROM scheduled_departure AT TIME ZONE 'America/New_York')::INT AS departure_hour,
    time_bucket(INTERVAL 1 DAY, outcome_known_at - INTERVAL 8 HOUR - INTERVAL 1 MICROSECOND,
        TIMESTAMPTZ '2013-01-01 00:00:00+00') + INTERVAL 1 DAY + INTERVAL 8 HOUR AS day,
    is_late::INT AS n_late,
    coalesce(arr_delay_min, 0) AS arr_delay
FROM flights
WHERE outcome_known_at IS NOT NULL
