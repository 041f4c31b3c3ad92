"""Pictures of clips, of what models do with them, and charts."""
