"""Skirmishes of small armies: rules, battle, the scripted enemy."""
