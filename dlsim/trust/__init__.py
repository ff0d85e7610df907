"""Whom to trust, and what it is worth: reputation, games, ledgers, rewards and marks, as Processes like any other."""

__all__: list[str] = []
