"""hilum: one chest X-ray model across hospitals that may not share images."""

__version__ = "0.1.0"
