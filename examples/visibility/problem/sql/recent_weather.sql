-- The observations of the last hours at the airport, and what changed in them.
-- Grain: one row per airport x observation. Units: miles, shares, inches, degrees Fahrenheit, mb.
--   A change is the newest observation minus the oldest of the last four.
-- Known when: with the newest observation.
SELECT
    airport,
    min(visibility_mi) OVER last_3h AS visibility_min_3h_mi,
    avg(visibility_mi) OVER last_6h AS visibility_mean_6h_mi,
    min(visibility_mi) OVER last_24h AS visibility_min_24h_mi,
    visibility_mi - first(visibility_mi) OVER change_3h AS visibility_change_3h_mi,
    avg(is_low(visibility_mi)::INT) OVER last_24h AS low_share_24h,
    sum(precipitation_in) OVER last_6h AS precipitation_6h_in,
    temperature_f - dew_point_f - first(temperature_f - dew_point_f) OVER change_3h
        AS dew_point_spread_change_3h_f,
    pressure_mb - first(pressure_mb) OVER change_3h AS pressure_change_3h_mb,
    known_at AS event_timestamp
FROM weather
WINDOW
    last_3h AS (PARTITION BY airport ORDER BY known_at
        RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW),
    change_3h AS (PARTITION BY airport ORDER BY known_at
        RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND CURRENT ROW),
    last_6h AS (PARTITION BY airport ORDER BY known_at
        RANGE BETWEEN INTERVAL 5 HOUR PRECEDING AND CURRENT ROW),
    last_24h AS (PARTITION BY airport ORDER BY known_at
        RANGE BETWEEN INTERVAL 23 HOUR PRECEDING AND CURRENT ROW)
