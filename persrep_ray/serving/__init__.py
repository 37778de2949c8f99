"""Answers queries over HTTP: the engine, the HTTP interface, and the Ray Serve deployments that connect them."""
