"""A model of transformers behind the protocol of lm.py: reading, sampling, losses."""
