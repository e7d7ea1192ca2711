"""Poolings: cell logits → image logits (multiple instance learning, one bag an image)."""
