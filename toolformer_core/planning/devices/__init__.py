"""Figures of devices, one JSON file each, as tests/bench/device.py writes them."""
