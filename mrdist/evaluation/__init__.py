"""What a trained student can do, in figures with their contract beside them."""
