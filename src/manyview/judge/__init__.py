"""A model opened, judged, used and taken out."""
