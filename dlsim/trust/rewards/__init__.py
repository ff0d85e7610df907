"""Contribution rewards: what each was worth to the others, who is left out, and a market that pays for it."""
