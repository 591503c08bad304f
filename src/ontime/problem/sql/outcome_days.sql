-- Intermediate table of the rolling-rate views.
-- Grain: one row per flight whose outcome is known. Units: minutes.
-- Known when: at `day`, the first daily tick at or after the outcome became known.
-- A flight that was cancelled or diverted is late with a delay of 0: no delay was measured.
SELECT
    carrier, flight, origin, dest,
    departure_hour,
    ceil_daily_tick(outcome_known_at) AS day,
    is_late::INT AS n_late,
    coalesce(arr_delay_min, 0) AS arr_delay
FROM flights
WHERE outcome_known_at IS NOT NULL
