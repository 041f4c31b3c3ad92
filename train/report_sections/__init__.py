"""The sections of the report, and the readers of run folders that they use."""
