"""Anomaly detectors: one file each. A larger score is more anomalous."""
