"""Features: declarations, the tables built from SQL, the historical join, the online read."""
