"""Training: optimizers, partitioning over a device mesh, the step, checkpoints and metrics."""
