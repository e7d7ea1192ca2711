"""Radiographs: files to greyscale in [0, 1], to squares of uint8, to a memory-mapped cache."""
