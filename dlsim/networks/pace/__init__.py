"""How fast things go: links and media, shared cells, computers and their traces, and the seconds of a round."""
