"""Problem x algorithm x network as a Process: in rounds, by clocks, by arrivals; and what is measured of it."""
