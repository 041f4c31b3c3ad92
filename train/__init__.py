"""Streams the shards into a masked-autoencoder video transformer: pretrain, finetune, evaluate."""

from shared.threads import wait_asleep

wait_asleep()
