"""Shards that belong to nothing: written by an ingest that was killed before it could name them."""

import json

from mvgan.config import InputError
from mvgan.data.shards import read_manifest
from mvgan.storage.uri import Store


def unnamed_shards(store: Store) -> dict[str, int]:
    """Sizes in bytes of the shards at `store` that neither its manifest nor the record of a finished group names.

    Raises InputError when a record cannot be read: what it names cannot be told.
    """
    shards = [(path, size) for path, size in store.list("shards/").items() if path.endswith(".parquet")]
    # Listed after the shards: a record is written after those that it names.
    records = [path for path in store.list("shards/") if path.endswith(".json")]
    manifest = read_manifest(store)
    named = {shard["path"] for shard in manifest["shards"]} if manifest else set()
    for path in records:
        try:
            named |= {shard["path"] for shard in json.loads(store.read(path))["shards"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{store.uri}/{path} is no record of shards ({error}); run ingest again, or delete it") from None
    return {path: size for path, size in shards if path not in named}
