"""Budgets, score and latency of a bundle, next to what else runs the same network on the same frames.

In the order in which they work: `budget` judges costs; `frames` and `checkpoints` find the inputs; `variants` and
`peers` (through `peer_table`) are the contestants, whose `answers` are compared first; `latency` runs them interleaved
and `summary` turns samples into numbers (`contest` is all of that); `score` judges answers against labels; `suite`
does everything into one `records.BenchResult`; `report` and `plots` make one offline HTML file of it.
"""
