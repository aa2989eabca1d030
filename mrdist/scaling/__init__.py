"""One recipe over sizes, objectives, fractions of the data and seeds: what each run came to, and which law it follows."""
