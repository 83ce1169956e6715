"""Files that bring up a cluster, and the check of them: `cluster/README.md`."""
