"""`serve deploy` of the shipped configuration on a real cluster, and the metrics that it exports."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from helpers.heads import PATIENCE_S, RAY, ray_head
from helpers.served import ROOT, DiscPublisher, disc_png, free_port, proxy_ports, ready, wait_until
from ray.serve.schema import ServeDeploySchema

from persrep_ray.serving import haproxy
from persrep_ray.serving.deployments import build_app
from persrep_ray.serving.http.auth import add_entry, new_key

METRICS = {
    *("ray_persrep_adapter_lookups", "ray_persrep_adapter_load_seconds", "ray_persrep_batch_rows"),
    *("ray_persrep_batch_adapters", "ray_persrep_batch_seconds", "ray_persrep_queue_seconds"),
}


def test_deployed_by_the_shipped_configuration(environment: dict[str, str], tmp_path: Path) -> None:
    """With a tenant's key, and with the metrics that Prometheus reads."""
    publisher = DiscPublisher(tmp_path / "vit", tmp_path / "registry")
    for number in (0, 1):
        publisher.publish(number)
    ours, entry = new_key("ours", ["disc_0"], delete=True)
    keys_file = tmp_path / "keys.json"
    add_entry(keys_file, entry)
    config = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    port, metrics_port = free_port(), free_port()
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    arguments = config["applications"][0]["args"]
    arguments |= {"registry": publisher.registry.store.uri}
    arguments["http"]["keys_file"] = str(keys_file)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    cluster = {**environment, **haproxy.environment(), **proxy_ports()}
    del cluster["PYTHONPATH"]  # what is installed must be enough
    with ray_head(cluster, tmp_path, f"--metrics-export-port={metrics_port}") as dashboard:
        deploy = [str(RAY.with_name("serve")), "deploy", "--address", dashboard, str(file)]
        done = subprocess.run(deploy, env=cluster, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: ready(url))
        assert classify(url, "disc_0", None) == (401, "unauthorized")
        assert classify(url, "disc_0", "prk_wrong") == (401, "unauthorized")
        assert classify(url, "disc_0", ours) == (200, "")
        assert classify(url, "disc_1", ours) == classify(url, "nobody", ours) == (404, "object_not_found")
        wait_until(lambda: classify(url, "disc_0", ours)[0] == 200 and exported(metrics_port) >= METRICS)
        wait_until(lambda: 'code="object_not_found"' in text_of(metrics_port))
        assert delete(url, "disc_1", ours) == 404
        assert delete(url, "disc_0", ours) == 204
        assert publisher.registry.objects() == ["disc_1"]


def classify(url: str, object_id: str, key: str | None) -> tuple[int, str]:
    """Status and error code."""
    headers = {"Content-Type": "image/png"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    request = urllib.request.Request(f"{url}/v1/objects/{object_id}/classify", data=disc_png(0), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["code"]


def delete(url: str, object_id: str, key: str) -> int:
    request = urllib.request.Request(
        f"{url}/v1/objects/{object_id}", method="DELETE", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def text_of(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def exported(port: int) -> set[str]:
    """The names of our metrics, without the suffixes of histograms and counters."""
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
    arguments = config["applications"][0]["args"] | {"registry": publisher.registry.store.uri}
    if "keys_file" in arguments["http"]:
        arguments["http"]["keys_file"] = str(tmp_path / "keys.json")
        (tmp_path / "keys.json").write_text('{"keys": []}')
    build_app(arguments)
