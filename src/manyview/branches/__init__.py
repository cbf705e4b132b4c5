"""Branches: networks that look at views."""
