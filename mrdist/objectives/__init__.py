"""The methods, one file each: a frozen config and an Objective. `mrdist.kinds` holds the table."""
