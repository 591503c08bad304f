-- Size and age of the aircraft, from the FAA registry.
-- Grain: one row per aircraft and 400 days (the view's TTL). Units: seats, years.
-- Known when: always, because the registry has no dates: stamped from the first day of the flights
--   on, but not before the year in which the aircraft was built.
-- Limit: 16 % of the flights have an aircraft that is not in the registry.
WITH ticks AS (
    SELECT unnest(generate_series(
        date_trunc('day', min(scheduled_departure)), $until, INTERVAL 400 DAY
    )) AS tick
    FROM flights
)
SELECT
    tailnum,
    n_seats AS aircraft_n_seats,
    extract('year' FROM tick) - built_year AS aircraft_age_years,
    tick AS event_timestamp
FROM aircraft CROSS JOIN ticks
WHERE built_year IS NULL OR built_year <= extract('year' FROM tick)
