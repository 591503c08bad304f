"""Evaluation: metrics, intervals, slices, feature importance, pictures and the model card."""
