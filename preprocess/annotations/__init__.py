"""What annotation files say of a dataset's clips, and where their videos are."""
