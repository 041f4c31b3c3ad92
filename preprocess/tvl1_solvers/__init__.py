"""The solvers of TV-L1 flow: the reference in PyTorch, C++ for processors, Triton for GPUs."""
