"""Worlds that agents act in, as stacked arrays."""
