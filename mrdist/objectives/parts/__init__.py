"""What objectives are built of: modules with ordinary arguments that read no recipe."""
