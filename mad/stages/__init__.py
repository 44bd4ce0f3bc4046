"""Stages: each turns a config and input artifacts into one artifact."""
