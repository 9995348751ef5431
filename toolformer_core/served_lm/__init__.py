"""A language model behind an OpenAI-compatible completions server, as lm.py wants it."""
