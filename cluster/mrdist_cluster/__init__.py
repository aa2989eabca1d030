"""mrdist on many machines: Slurm queues it, Ray renders, teaches and trains; what is computed is the core's business."""
