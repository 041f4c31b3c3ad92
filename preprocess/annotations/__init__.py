"""Readers of official annotation files: one small module a format, all returning `Annotations`."""
