"""What happens to nodes and links: who is there, which links are up, where nodes move, what their batteries hold."""
