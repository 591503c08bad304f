"""Tables and time: schemas and validation, splits by time, UTC timestamps, API field types."""
