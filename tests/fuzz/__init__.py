"""Fuzzing of what takes text written by a model: see __main__."""
