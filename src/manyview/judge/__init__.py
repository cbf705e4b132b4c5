"""A model opened, judged, used."""
