-- The last observation at the airport.
-- Grain: one row per airport x observation.
-- Units: miles, %, degrees Fahrenheit, mph, inches per hour, mb.
-- Known when: the hour after the one under which it is filed.
SELECT
    airport,
    visibility_mi,
    humidity_pct,
    temperature_f - dew_point_f AS dew_point_spread_f,
    wind_speed_mph,
    wind_speed_mph * cos(radians(wind_direction_deg)) AS wind_from_north_mph,
    wind_speed_mph * sin(radians(wind_direction_deg)) AS wind_from_east_mph,
    precipitation_in,
    pressure_mb,
    known_at AS event_timestamp
FROM weather
