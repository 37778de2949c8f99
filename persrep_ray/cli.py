"""The command `persrep`. Exit code 0: all went well; 1: an object failed; 2: an invalid command or configuration."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import persrep_ray
from persrep_ray.config import PRESETS, RunConfig, load_config
from persrep_ray.registry.registry import NotPublishedError, Registry, RegistryError
from persrep_ray.storage.files import check_file_location, write_file
from persrep_ray.storage.store import is_remote, join, open_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except (ValueError, OSError) as error:  # the message says what to fix
        if options.verbose:
            raise
        print(f"persrep: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("persrep: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _personalize(options: argparse.Namespace) -> int:
    from persrep_ray.runs.inputs import check_kept
    from persrep_ray.runs.personalize import Request, RunInterruptedError, personalize  # Ray takes seconds to import
    from persrep_ray.runs.progress import StatusLine

    if options.out is None and is_remote(options.objects) and "RAY_ADDRESS" in os.environ:
        raise ValueError("--out: name a location that all nodes of the cluster reach, such as s3://bucket/run")
    out = options.out or os.path.join("runs", _name(options.objects))
    registry = options.registry or join(out, "registry")
    check_kept(
        objects=options.objects,
        registry=registry,
        out=out,
        backgrounds=options.backgrounds,
        negatives=options.negatives,
    )
    request = Request(
        objects=options.objects,
        registry=registry,
        out=out,
        only=tuple(options.only),
        backgrounds=options.backgrounds,
        negatives=options.negatives,
        verbose=options.verbose,
    )
    try:
        summary = personalize(_config(options), request, StatusLine())
    except RunInterruptedError as error:
        print(f"persrep: {error}", file=sys.stderr)
        return 1
    code = _print_result(summary)
    print(f"\nadapters  {registry}\nsheets    {join(out, '<object>.jpg')}\nsummary   {join(out, 'summary.json')}")
    return code


def _evaluate(options: argparse.Namespace) -> int:
    from persrep_ray.runs.evaluate import evaluate_registry
    from persrep_ray.runs.inputs import check_kept
    from persrep_ray.runs.progress import StatusLine

    check_kept(objects=options.objects, registry=options.registry, out=options.out)
    check_file_location(options.out)
    result = evaluate_registry(
        options.objects,
        Registry(open_store(options.registry)),
        _config(options) if options.config or options.set else None,
        StatusLine(),
        only=tuple(options.only),
        verbose=options.verbose,
    )
    code = _print_result(result)
    write_file(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(f"\nresult  {options.out}")
    return code


def _name(location: str) -> str:
    """The last part of a path or of an S3 location."""
    return location.rstrip("/").rpartition("/")[2] if is_remote(location) else Path(location).absolute().name


def _print_result(result: Mapping[str, Any]) -> int:
    """Prints the objects' metrics and what failed; returns the exit code."""
    from persrep_ray.report.table import format_table

    done = {name: entry["metrics"] for name, entry in result["objects"].items() if entry["metrics"] is not None}
    if result["mean"]["personalized"]:
        print(format_table(done, result["mean"]))
    elif done:
        print(f"{len(done)} done; there are no test photos to evaluate on (put them in test/<object>/, next to train/)")
    failed = [entry["error"] for entry in result["objects"].values() if entry["error"]]
    for error in failed:
        print(f"failed: {error}")
    return 1 if failed else 0


def _registry(options: argparse.Namespace, *, writable: bool = False) -> Registry:
    """The registry at `--registry`, which must exist and, if asked for, honour conditional writes."""
    registry = Registry(open_store(options.registry))
    if not registry.exists():
        raise RegistryError(f"{registry.store.uri} holds no registry")
    if writable:
        registry.store.check_writable()
    return registry


def _list_objects(options: argparse.Namespace) -> int:
    registry = _registry(options)
    for object_id, version in registry.live().items():
        print(f"{object_id}\t{version}\t{len(registry.versions(object_id))} versions")
    return 0


def _show_object(options: argparse.Namespace) -> int:
    card = _registry(options).card(options.object_id, options.version)
    print(json.dumps(card, indent=2))
    return 0


def _delete_object(options: argparse.Namespace) -> int:
    registry = _registry(options, writable=True)
    if registry.current(options.object_id) is None:
        raise NotPublishedError(f"object {options.object_id}: not published in {registry.store.uri}")
    registry.delete(options.object_id)
    return 0


def _rollback_object(options: argparse.Namespace) -> int:
    _registry(options, writable=True).make_live(options.object_id, options.version)
    return 0


def _verify_objects(options: argparse.Namespace) -> int:
    from persrep_ray.runs.verify import verify

    registry = _registry(options)
    sound = True
    for verdict in verify(registry, options.object_ids or sorted(registry.live())):
        problem = "" if verdict.sound else "unusable: "
        print(f"{verdict.object_id}\t{verdict.version or '-'}\t{problem}{verdict.text}", flush=True)
        sound = sound and verdict.sound
    return 0 if sound else 1


def _doctor(options: argparse.Namespace) -> int:
    from persrep_ray.runs.doctor import examine

    fine = True
    for finding in examine(_config(options), options.objects):
        print(f"{finding.topic:9} {'' if finding.fine else 'PROBLEM: '}{finding.text}", flush=True)
        fine = fine and finding.fine
    return 0 if fine else 1


def _migrate_registry(options: argparse.Namespace) -> int:
    from persrep_ray.registry.migration import migrate

    print(f"{migrate(Registry(open_store(options.registry)))} objects are live")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from persrep_ray.serving import haproxy

    if options.print_environment:
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in haproxy.environment().items()))
        if not haproxy.is_available():
            print(f"persrep: {haproxy.MISSING}", file=sys.stderr)
        return 0
    from persrep_ray.config import load_serve_config
    from persrep_ray.serving.launch import serve_until_interrupted

    config = load_serve_config(options.config, options.set, registry=options.registry)
    serve_until_interrupted(config, host=options.host, port=options.port, verbose=options.verbose)
    return 0


def _backbone_path(options: argparse.Namespace) -> int:
    from persrep_ray.backbones.backbone import local_checkpoint

    print(local_checkpoint(options.name))
    return 0


def _new_key(options: argparse.Namespace) -> int:
    from persrep_ray.serving.http.auth import add_entry, new_key

    key, entry = new_key(options.name, options.prefix or [""], options.delete)
    if options.file is None:
        print(f"{key}\n{json.dumps({'keys': [entry.model_dump()]})}")
    else:
        add_entry(options.file, entry)
        print(key)
    print("The key is only shown now; the file stores its hash.", file=sys.stderr)
    return 0


def _config(options: argparse.Namespace) -> RunConfig:
    return load_config(options.config, options.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="persrep", description="Personalized vision representations from about three photos per object, on Ray."
    )
    parser.add_argument("--version", action="version", version=f"persrep {persrep_ray.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    place = "a folder or s3://bucket/prefix"

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="show the output of the workers, and tracebacks")
    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument("--config", metavar="FILE", help=f"a YAML file or a preset ({', '.join(PRESETS)})")
    configured.add_argument(
        "--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="overrides, such as train.steps=50"
    )
    stored = argparse.ArgumentParser(add_help=False)
    stored.add_argument("--registry", required=True, metavar="DIR", help=f"where adapters are published: {place}")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--objects",
        required=True,
        metavar="DIR",
        help=f"{place}, which has one sub-folder of photos per object, or train/, test/ …",
    )
    data.add_argument("--only", nargs="+", action="extend", default=[], metavar="ID", help="only these objects")

    command = commands.add_parser(
        "personalize",
        parents=[data, configured, common],
        help="turn photos into published adapters",
        description="Makes masks and synthetic images, then trains, evaluates and publishes an adapter per object. "
        "Runs on the Ray cluster at RAY_ADDRESS, or else on this machine. The same command resumes a killed run.",
    )
    command.add_argument(
        "--registry", metavar="DIR", help=f"where adapters are published: {place} (default: OUT/registry)"
    )
    command.add_argument(
        "--out", metavar="DIR", help=f"where the run is kept: {place} (default: runs/<name of OBJECTS>)"
    )
    command.add_argument("--backgrounds", metavar="DIR", help=f"photos to paste objects onto: {place}")
    command.add_argument("--negatives", metavar="DIR", help=f"photos of other things, used as negatives: {place}")
    command.set_defaults(command=_personalize)

    command = commands.add_parser(
        "evaluate",
        parents=[data, stored, configured, common],
        help="run the four tasks with the adapters of a registry",
    )
    command.add_argument(
        "--out", required=True, metavar="FILE", help="where the result is written, as JSON: a file or s3://bucket/key"
    )
    command.set_defaults(command=_evaluate)

    command = commands.add_parser(
        "serve",
        parents=[common],
        help="start an HTTP endpoint for a registry",
        description="Serves classify, detect, segment, embed, compare and identify, and a page to try them. Runs on "
        "the Ray cluster at RAY_ADDRESS, or else on this machine. New versions go live without a restart. See "
        "docs/SERVING.md.",
    )
    command.add_argument("--registry", metavar="DIR", help=f"where adapters are published: {place}")
    command.add_argument("--host", default="127.0.0.1", help="the interface to listen on (default: this machine only)")
    command.add_argument("--port", type=int, default=8000)
    command.add_argument("--config", type=Path, metavar="FILE", help="a YAML file of settings")
    command.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="overrides, such as encoder.max_replicas=4",
    )
    command.add_argument(
        "--print-environment",
        action="store_true",
        help="only print the environment that `ray start` needs on a cluster, as input for eval",
    )
    command.set_defaults(command=_serve)

    objects = commands.add_parser("objects", help="inspect and change a registry").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = objects.add_parser("list", parents=[stored, common], help="list ids and live versions")
    command.set_defaults(command=_list_objects)
    command = objects.add_parser("show", parents=[stored, common], help="print an object's card")
    command.add_argument("object_id", metavar="ID")
    command.add_argument("--version", help="the version to show (default: the live version)")
    command.set_defaults(command=_show_object)
    command = objects.add_parser("rollback", parents=[stored, common], help="make an earlier version live")
    command.add_argument("object_id", metavar="ID")
    command.add_argument("--version", required=True, help="the published version to make live")
    command.set_defaults(command=_rollback_object)
    command = objects.add_parser("delete", parents=[stored, common], help="remove an object with all its versions")
    command.add_argument("object_id", metavar="ID")
    command.set_defaults(command=_delete_object)

    command = objects.add_parser(
        "verify",
        parents=[stored, common],
        help="check that adapters are whole, fit their backbone, and act with the installed packages",
    )
    command.add_argument("object_ids", metavar="ID", nargs="*", help="the objects to check (default: all)")
    command.set_defaults(command=_verify_objects)

    command = objects.add_parser(
        "migrate", parents=[stored, common], help="convert a registry of an earlier version to the current layout"
    )
    command.set_defaults(command=_migrate_registry)

    command = commands.add_parser(
        "doctor",
        parents=[configured, common],
        help="say what this machine and a folder of photos will do",
        description="Takes seconds and starts nothing. Exit code 1: a run would fail, or some of its objects.",
    )
    command.add_argument("--objects", metavar="DIR", help=f"photos to look at: {place}")
    command.set_defaults(command=_doctor)

    backbone = commands.add_parser("backbone", help="find the frozen backbone").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = backbone.add_parser("path", parents=[common], help="print its folder, for plain transformers")
    command.add_argument("name", metavar="NAME", help="embedded (converted on first use), a hub id or a local folder")
    command.set_defaults(command=_backbone_path)

    keys = commands.add_parser("keys", help="manage the API keys of an endpoint").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = keys.add_parser("new", parents=[common], help="make a key and its entry for a keys file")
    command.add_argument("--name", required=True, help="the owner of the key")
    command.add_argument(
        "--prefix",
        nargs="+",
        action="extend",
        default=[],
        help="the key sees only objects whose id starts with one of these prefixes (default: all objects)",
    )
    command.add_argument("--delete", action="store_true", help="let the key delete objects")
    command.add_argument("--file", metavar="FILE", help="the keys file to add the entry to: a file or s3://bucket/key")
    command.set_defaults(command=_new_key)
    return parser


if __name__ == "__main__":
    sys.exit(main())
