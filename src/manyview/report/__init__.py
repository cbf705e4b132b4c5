"""A run, several or a comparison as one page: gathered from their files, drawn, and written or served."""
