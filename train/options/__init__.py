"""What a run is made of: recipes and what may stand in them."""
