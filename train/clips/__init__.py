"""Stored clips: which there are, what is read of them, in which order, and the rules for views."""
