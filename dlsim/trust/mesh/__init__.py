"""Wireless meshes: replay windows, key epochs, watchdogs and ring signatures.  Behaviour of protocols, never security."""
