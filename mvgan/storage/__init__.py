"""Where runs and shards live: a folder or an S3 prefix (`uri`), and how state is committed there (`commit`)."""
