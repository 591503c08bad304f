-- How often the newest windows of the airport were low: persistence, a forecaster's baseline.
-- Grain: one row per airport x window.
-- Units: shares; twelve windows are added, one of them low, so that no rate is 0 or 1.
--   Windows overlap: those that ended in the last 12 hours cover 18 hours.
-- Known when: with the outcome of the newest window.
SELECT
    airport,
    (sum(is_low::INT) OVER last_12h + 1) / (count(*) OVER last_12h + 12) AS low_rate_12h,
    (sum(is_low::INT) OVER last_48h + 1) / (count(*) OVER last_48h + 12) AS low_rate_48h,
    outcome_known_at AS event_timestamp
FROM visibility_windows
WINDOW
    last_12h AS (PARTITION BY airport ORDER BY outcome_known_at
        RANGE BETWEEN INTERVAL 11 HOUR PRECEDING AND CURRENT ROW),
    last_48h AS (PARTITION BY airport ORDER BY outcome_known_at
        RANGE BETWEEN INTERVAL 47 HOUR PRECEDING AND CURRENT ROW)
