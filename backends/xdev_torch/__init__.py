"""The torch backend of xdev."""
