"""What lies on disk or in S3: the objects and their photos, image decoding with limits, and the folder of a run."""
