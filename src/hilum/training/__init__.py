"""Local training: losses, the loop, checkpoints of a state."""
