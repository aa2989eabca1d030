"""Relations over the global batch: what they mean (`definition`), how they look (`pictures`)."""
