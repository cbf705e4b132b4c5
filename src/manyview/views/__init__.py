"""Views: what an image is made into."""
