"""Streams the shards into a masked-autoencoder video transformer: pretrain, finetune, evaluate."""

from shared.threads import spin_briefly

spin_briefly()
