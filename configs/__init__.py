"""The YAML files that travel with mrdist; values, never structure."""
