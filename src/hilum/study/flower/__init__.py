"""A study between hospitals: the two ends of a Flower app, and the folders that hospitals are sent."""
