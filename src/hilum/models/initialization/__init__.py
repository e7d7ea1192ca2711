"""What a trunk begins with, of another model's weights (Raghu et al. 2019)."""
