-- The aircraft's last known leg from one of the origins.
-- Grain: one row per aircraft and event (a departure or a landing). Units: minutes; a moment is in
--   minutes since 1970-01-01 UTC.
-- Known when: at the event. In the air the delay is the departure's, after landing the arrival's.
-- The earliest return assumes 40 minutes on the ground and the way back as long as the way out.
-- Limit: the tail number is the aircraft that flew, not the one planned.
WITH events AS (
    SELECT
        tailnum, flight_id, FALSE AS is_landed, dep_delay_min AS delay_min,
        date_diff('minute', scheduled_departure, scheduled_arrival) AS block_min,
        departed_at + 2 * (scheduled_arrival - scheduled_departure) AS back_at,
        departed_at AS event_timestamp
    FROM flights
    WHERE tailnum IS NOT NULL AND departed_at IS NOT NULL
    UNION ALL
    SELECT
        tailnum, flight_id, TRUE, arr_delay_min,
        date_diff('minute', scheduled_departure, scheduled_arrival),
        arrived_at + (scheduled_arrival - scheduled_departure),
        arrived_at
    FROM flights
    WHERE tailnum IS NOT NULL AND arrived_at IS NOT NULL
)
SELECT
    tailnum,
    delay_min AS aircraft_delay_min,
    is_landed::INT AS aircraft_is_landed,
    block_min AS aircraft_block_min,
    epoch(back_at + INTERVAL 40 MINUTE) / 60 AS aircraft_earliest_return_epoch_min,
    event_timestamp
FROM events
-- 31 pairs of flights share a tail number and a minute: the landing wins, then the higher id.
QUALIFY row_number() OVER (
    PARTITION BY tailnum, event_timestamp ORDER BY is_landed DESC, flight_id DESC
) = 1
