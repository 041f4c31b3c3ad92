"""Plain tables (TOML, JSON) and typed dataclasses."""
