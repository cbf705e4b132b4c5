"""manyview: train vision models on several augmented views of each image."""
