"""Readers of text: one module per kind of source, each giving rows one at a time."""
