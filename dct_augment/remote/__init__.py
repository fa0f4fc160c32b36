"""Runs, data and exports on stores: `s3://`, `gs://` and `hf://` URLs, read and written through fsspec."""
