"""The command `xdev`: what this machine has, and a training run that shows it at work."""

from .app import app, main

__all__ = ["app", "main"]
