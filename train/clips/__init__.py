"""Stored clips: the table of clips, the reader, the order of clips, and the rules for views."""
