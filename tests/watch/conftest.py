"""The tiny family, and a cache of its own for each test."""

from tiny_family import catalog, home, registry

__all__ = ["catalog", "home", "registry"]
