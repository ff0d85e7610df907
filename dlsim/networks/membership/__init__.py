"""Who nodes believe is there, and the samples that they draw from it."""
