"""Words of one's own: found, checked, and begun from a skeleton."""
