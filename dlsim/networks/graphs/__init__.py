"""Graphs: topologies, random graphs, files and libraries they come from, weights, spectra, layouts and drawings."""
