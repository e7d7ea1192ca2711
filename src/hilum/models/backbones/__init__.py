"""Trunks: image (B, 1, H, W) → features (B, channels, H / stride, W / stride)."""
