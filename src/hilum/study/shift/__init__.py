"""How far apart the hospitals of a study are, measured before any training."""
