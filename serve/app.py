"""The Ray Serve application, for `serve deploy serve/config.yaml` and `serve run serve.app:build_app registry=…`."""

from persrep_ray.serving.deployments import build_app

__all__ = ["build_app"]
