"""`xdev bench`: which device work belongs on, measured here.

Read `timing` (a clock, cases in turns), `verdict` (who wins from which size on), `work` (what is timed),
`contenders` (on which devices), `crossover` and `picture`; then `source`, `advice` and `mine` for a function of the
user's own.
"""
