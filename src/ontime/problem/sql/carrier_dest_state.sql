-- The carrier's last 6 flights to the destination (see last_flights).
-- Grain: one row per carrier, dest and hour at which the state of one of its flights changed.
-- Units: signed logarithms of minutes.
-- Known when: at the hour.
SELECT
    split_part(key, ' ', 1) AS carrier,
    split_part(key, ' ', 2) AS dest,
    log_delay AS carrier_dest_log_delay_last_6,
    spread AS carrier_dest_log_delay_spread_last_6,
    tick AS event_timestamp
FROM last_flights
WHERE relation = 'carrier_dest'
