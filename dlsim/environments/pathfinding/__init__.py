"""Fleets on maps: moves, maps, costs to go, following."""
