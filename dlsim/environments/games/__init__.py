"""Small games of few agents."""
