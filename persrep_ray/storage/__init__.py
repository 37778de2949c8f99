"""One interface over a folder and S3."""
