"""`serve deploy` of the shipped configuration on a real cluster, and the metrics that it exports."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml
from heads import PATIENCE_S, RAY, ray_head
from ray.serve.schema import ServeDeploySchema
from served import ROOT, DiscPublisher, Query, disc_png, free_port, proxy_ports, ready, under_load, wait_until

from persrep_ray.endpoint import haproxy
from persrep_ray.endpoint.deployments import build_app

METRICS = ("adapter_lookups", "adapter_load_seconds", "batch_rows", "batch_adapters", "batch_seconds", "queue_seconds")


def test_deployed_by_the_shipped_configuration(environment: dict[str, str], tmp_path: Path) -> None:
    publisher = DiscPublisher(tmp_path / "vit", tmp_path / "registry")
    publisher.publish(0)
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    port, metrics_port = free_port(), free_port()
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"] |= {"registry": str(publisher.registry.root)}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    cluster = {**environment, **haproxy.environment(), **proxy_ports()}
    with ray_head(cluster, tmp_path, f"--metrics-export-port={metrics_port}") as dashboard:
        deploy = [str(RAY.with_name("serve")), "deploy", "--address", dashboard, str(file)]
        done = subprocess.run(deploy, env=cluster, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: ready(url))
        answers = under_load(
            url,
            [Query("disc_0", disc_png(0)), Query("nobody", disc_png(0))],
            lambda: wait_until(lambda: exported(metrics_port) >= {f"ray_persrep_{name}" for name in METRICS}),
            clients=2,
        )
        assert {(object_id, status) for object_id, status, _ in answers} == {("disc_0", 200), ("nobody", 404)}
        wait_until(lambda: 'code="object_not_found"' in text_of(metrics_port))


def text_of(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def exported(port: int) -> set[str]:
    """Names of our metrics, without the suffixes of histograms and counters."""
    found = {line.split("{")[0] for line in text_of(port).splitlines() if line.startswith("ray_persrep_")}
    return {name.removesuffix("_bucket").removesuffix("_total") for name in found}


@pytest.mark.parametrize("name", ["config.yaml", "config.autoscale.yaml"])
def test_the_shipped_configurations_are_what_serve_and_we_allow(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((ROOT / "serve" / name).read_text())
    schema = ServeDeploySchema.model_validate(config)
    assert config.keys() <= set(ServeDeploySchema.model_fields), "Ray ignores what it does not know"
    assert [set(one) <= set(type(schema.applications[0]).model_fields) for one in config["applications"]] == [True]
    publisher = DiscPublisher(tmp_path / "vit", tmp_path / "registry")
    publisher.publish(0)
    arguments = config["applications"][0]["args"] | {"registry": str(publisher.registry.root)}
    if "keys_file" in arguments["http"]:
        arguments["http"]["keys_file"] = str(tmp_path / "keys.json")
        (tmp_path / "keys.json").write_text('{"keys": []}')
    build_app(arguments)
