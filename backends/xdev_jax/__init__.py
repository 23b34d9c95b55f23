"""The jax backend of xdev."""
