"""The port: one HTTP API that answers from the champion and logs before it answers."""
