"""A study file becomes a run directory."""
