"""Necks: what looks at a trunk's whole map before the head reads it."""
