"""Exact rewrites of a network: fewer parameters and multiply-adds, the same answers, each pass with its proof."""

from spacecompile.export.rewrite.pipeline import PASSES, rewrite_network

__all__ = ["PASSES", "rewrite_network"]
