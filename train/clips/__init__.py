"""From shards to the views of clips that a model sees, batch by batch."""
