"""The tools a model can call, and the protocol a new one follows."""
