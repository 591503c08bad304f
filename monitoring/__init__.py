"""The verdict on production: how good the served predictions were, what drifted, what to do."""
