"""Evaluation sets: reader, prompt and metric, one file each."""
