"""Tests; see section 11 of the house style for what goes where."""
