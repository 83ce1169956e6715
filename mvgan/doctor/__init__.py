"""Whether machines and storage are fit for a run, found out before it costs anything.

- `facts`: what one machine measures of itself and of what it may do on the storage.
- `findings`: what is wrong by such measures, and what to do.
"""
