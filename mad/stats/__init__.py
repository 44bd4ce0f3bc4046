"""Pure mathematics: tensors in, tensors out. Nothing here knows of models, files, Ray or MLflow."""
