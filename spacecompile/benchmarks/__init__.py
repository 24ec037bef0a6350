"""Budgets, score and latency of a bundle, next to what else runs the same network on the same frames.

Each measurement has a folder, with its own records. In the order in which they work:

- `settings`, `frame_stream` and `source_checkpoint` say and find what is measured.
- `latency` times variants: in turns, paced, side by side, from a cold start, with their energy.
- `peers` are the contestants beside them; `agreement` compares answers first; `race` runs them all.
- `score` judges answers against labels, `cost` counts, `limits` holds them against the machine.
- `run` keeps what is known so far, `suite` does everything, `result` makes one `result_records.BenchResult` of it.
- `report` makes pages and tables of a result, `compare` compares two, `proof` judges files on a GPU.
"""
