"""What runs on a schedule: each file a Prefect flow over functions of `ontime`."""
