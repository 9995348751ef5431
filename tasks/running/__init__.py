"""How a task runs: cache keys, retries, locks, clusters, stored results, assets."""
