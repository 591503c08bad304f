-- The last flights of a flight number, one by one (see recent_flights).
-- Grain: one row per carrier, flight, hour at which one of them changed, and position. Units: minutes.
-- Known when: at the hour; events at that very moment are counted.
SELECT
    carrier, flight, position,
    scheduled_epoch_min, dep_delay_min, arr_delay_min, is_late, block_min,
    tick AS event_timestamp
FROM recent_flights
WHERE relation = 'flight'
