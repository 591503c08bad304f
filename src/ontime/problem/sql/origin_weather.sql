-- Weather at the origin: the last hourly observation.
-- Grain: one row per origin and observation. Units: mph, %, inches per hour, miles.
-- Known when: one hour after the hour it is filed under (observed up to minute 51).
SELECT
    origin,
    wind_speed_mph,
    wind_gust_mph,
    wind_speed_mph * cos(radians(wind_direction_deg)) AS wind_from_north_mph,
    wind_speed_mph * sin(radians(wind_direction_deg)) AS wind_from_east_mph,
    humidity_pct,
    precipitation_in,
    visibility_mi,
    known_at AS event_timestamp
FROM weather
