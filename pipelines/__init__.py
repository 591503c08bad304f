"""Prefect flows: each module is one flow over functions of `ontime` and `monitoring`."""
