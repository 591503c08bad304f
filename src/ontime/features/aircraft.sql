-- What is known of the aircraft itself, from the FAA registry.
-- Grain: aircraft. Units: seats, years. 16 % of flights have an aircraft that is not in it.
-- Known when: always; stamped at the start of the data, because the registry has no dates.
SELECT
    tailnum,
    n_seats AS aircraft_n_seats,
    2013 - built_year AS aircraft_age_years,
    TIMESTAMPTZ '2013-01-01 00:00:00+00' AS event_timestamp
FROM aircraft
