"""The strict backend of xdev."""
