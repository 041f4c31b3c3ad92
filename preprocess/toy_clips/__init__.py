"""The clips of the toy dataset: what happens in them, and how they are drawn."""
