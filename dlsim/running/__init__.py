"""One loop for every Process: programs, chunks of steps, records, checkpoints, placement on devices, progress."""
