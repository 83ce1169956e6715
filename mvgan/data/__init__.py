"""Videos to shards, and shards to windows of pairs and clips."""
