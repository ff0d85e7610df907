"""Collectives: reductions of all peers, retried when one dies, what they take, and the state that peers share."""
