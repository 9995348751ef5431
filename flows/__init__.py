"""Prefect flows: in what order the tasks run, and the command line over them."""
