"""DuckDB over the shards: built once a run, then queried."""
