"""Games that are played again and again: automata, tournaments, ecologies, imitation, markets of strangers."""
