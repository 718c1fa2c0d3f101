"""Harnesses that feed whatever bytes there are to what reads them, and say what must hold of the outcome."""
