"""Streams the shards into a masked-autoencoder video transformer: pretrain, finetune, evaluate."""
