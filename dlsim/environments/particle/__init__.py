"""Particle worlds: bodies in the plane that push, chase and talk."""
