"""Triggers: one file each, turning a clean input into one that carries the backdoor pattern."""
