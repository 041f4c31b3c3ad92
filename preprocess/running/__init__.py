"""What the commands share: journals, failures, processes and options."""
