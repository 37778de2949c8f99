"""The HTTP interface and the Ray Serve deployments around the serving engine."""
