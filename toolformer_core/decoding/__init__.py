"""Inference: token by token, with calls where the model starts them, results written in."""
