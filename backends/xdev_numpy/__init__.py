"""The numpy backend of xdev."""
