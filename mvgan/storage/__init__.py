"""Where runs and shards live, and how nothing that was committed there gets lost.

- `uri`: from a URI to a store of whole objects (`store`): a folder (`local`) or an S3 prefix (`s3`), whose operations
  are tried again while a fault may pass (`endure`).
- `commit`: the commits of a stage's state: whole or absent.
- `run`: a run's folder.
- `holder`: one driver at a time.
- `gc`: removing what was begun and never committed.
"""
