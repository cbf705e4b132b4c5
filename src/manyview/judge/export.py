"""Where `export_timm` is imported from, too: it stands in the room of all that leaves, `manyview.export`."""

from manyview.export.timm import export_timm, timm_state

__all__ = ["export_timm", "timm_state"]
