"""Runtimes: which sites are there, and exchange these tasks for replies."""
