"""Messages in flight: when what was sent is heard, how late models are combined, what a server hears late."""
