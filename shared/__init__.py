"""What both programs agree on: formats, geometry, masking, randomness. numpy and h5py only."""
