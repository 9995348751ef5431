"""Settings that a sample of a corpus, or of a benchmark, recommends."""
