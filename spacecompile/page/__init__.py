"""HTML pages that stand alone: figures in them as bytes."""
