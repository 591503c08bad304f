"""Monitoring of production: performance, drift and skew of served predictions, retrain policy."""
