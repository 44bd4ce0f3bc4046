"""Tasks: one file each, giving trusted, untrusted and labelled rows from a seed."""
