"""Marks of ownership: watermarks and fingerprints of models and data, what removes them, and what they prove."""
