"""A simulated shop whose shoppers click: the world (who clicks what) and its publisher."""
