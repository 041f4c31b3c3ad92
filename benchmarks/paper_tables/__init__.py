"""The published tables of MOFO, MGM and MME as rows of this project's commands."""
