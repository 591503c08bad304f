-- The last three hours at all airports together: bad weather reaches one before the others.
-- Grain: one row per airport x observation; airports observed at the same hour have equal values.
-- Units: miles, degrees Fahrenheit, inches.
-- Known when: with the newest observation.
SELECT
    airport,
    min(visibility_mi) OVER last_3h AS network_min_visibility_3h_mi,
    avg(visibility_mi) OVER last_3h AS network_mean_visibility_3h_mi,
    avg(temperature_f - dew_point_f) OVER last_3h AS network_mean_dew_point_spread_3h_f,
    sum(precipitation_in) OVER last_3h AS network_precipitation_3h_in,
    known_at AS event_timestamp
FROM weather
WINDOW last_3h AS (ORDER BY known_at RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW)
