"""How far apart two sites are: statistics on plain arrays, and the same without moving images."""
