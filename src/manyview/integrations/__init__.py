"""manyview inside other training loops."""
