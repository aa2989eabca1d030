"""Many machines: what mrdist needs to run on a cluster (see the roadmap in docs/tour.md)."""
