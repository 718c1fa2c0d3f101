"""Measurements: ratios within one run, since nothing else means anything on a shared machine."""
