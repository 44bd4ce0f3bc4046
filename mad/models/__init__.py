"""Models: building, loading, and reading their activations."""
