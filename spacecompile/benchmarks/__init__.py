"""Budgets, score and latency of a bundle, next to what else runs the same network on the same frames.

In the order in which they work: `frames` and `checkpoints` find the inputs; `process_start` starts variants in fresh
processes; `variants` and `peers`, `peers_plain` (through `peer_table`) are the contestants, whose `answers` are
compared first; `latency` runs them interleaved, `paced` at a camera's rate, `throughput` side by side, `energy` reads
the machine's counters, and `summary` turns samples into numbers (`contest` is most of that); `score` judges answers
against labels and `torch_scores` PyTorch's; `graph_cost` and `stage_cost` count; `budget` judges; `machine` and
`environment` watch what it was measured on. `suite` does everything into a `draft`, `result` makes one
`records.BenchResult` of it; `report` and `plots` make one offline HTML file of that.
"""
