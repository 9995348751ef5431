"""Tests of one module each: no Prefect, no network, no downloads."""
