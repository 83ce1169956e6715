"""The verbs of mvgan, one file each: `python -m jobs.<verb> --help`."""
