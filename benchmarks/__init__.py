"""Measurements, run by hand; what they print goes into RESULTS.md with the command."""
