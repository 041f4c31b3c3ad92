"""The clips of the toy dataset: their motion, and how they are rendered."""
