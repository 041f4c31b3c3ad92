"""The run of `preprocess.flows`: plan, workers, messages, and how shards are published."""
