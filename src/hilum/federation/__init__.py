"""Federated learning: strategies, the round loop, runtimes."""
