"""The sections of the report, and what they are read from."""
