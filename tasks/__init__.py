"""Prefect tasks: how one unit of work runs, shard in, reference out."""
