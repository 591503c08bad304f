"""The HTTP API: predicts with the champion, and logs each prediction before it responds."""
