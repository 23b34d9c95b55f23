"""The cupy backend of xdev."""
