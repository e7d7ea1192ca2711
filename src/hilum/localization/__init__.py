"""From the cells of a model to maps on images."""
