"""Experiments run, judged, catalogued and reproduced."""
