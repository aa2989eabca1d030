"""The verbs of the cluster: one file each; only these print."""
