"""From motion maps, or annotations, to the boxes shards."""
