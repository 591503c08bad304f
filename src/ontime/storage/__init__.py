"""Prediction log and decision log in SQLite or Postgres, with their migrations."""
