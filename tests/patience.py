"""How long tests wait for other processes: until they hang for certain, on however busy a machine."""

PATIENCE = 1800.0  # seconds; no test expects to wait this long, and none measures anything by it
