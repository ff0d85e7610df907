"""Trust as a graph: who trusts whom and how much, what that says of everyone else, and what Sybils make of it."""
