"""Where the cluster side of mrdist will live: Slurm, Ray and their roles. This release trains on one machine, or under torchrun."""
