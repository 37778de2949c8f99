"""What a run must know about `folder`: where the images are, and one pool of cheap actors that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from persrep_ray.config import ConfigError
from persrep_ray.data.run_folder import RunFolder
from persrep_ray.distributed.resources import Demand
from persrep_ray.generate.folder.worker import FolderWorker
from persrep_ray.generate.shards import shard_report
from persrep_ray.generate.types import Chunk, Generator, GeneratorInputs, Stage
from persrep_ray.storage.store import Store, is_remote, open_store


class Folder(Generator):
    def stages(self) -> Sequence[Stage]:
        generate = self.config.generate
        return [Stage(Demand("folder", generate.actors, generate.cpus_per_actor), FolderWorker)]

    def digests(self) -> dict[str, str]:
        """Local files count by name and size, files on S3 by their tags, so nothing is read."""
        store, digest = self._store(), hashlib.sha256()
        entry = None
        for entry in store.list():
            digest.update(f"{entry.key}\0{entry.tag if is_remote(store.uri) else entry.size}\0".encode())
        if entry is None:
            raise ConfigError(f"generate.folder.path: there are no images in {store.uri}")
        return {"generate.folder.path": digest.hexdigest()[:16]}

    def prepare(self, inputs: GeneratorInputs) -> Store:
        return self._store()

    def why_unusable(self, folder: RunFolder, object_id: str, positives: Sequence[Chunk]) -> str | None:
        if any(shard_report(folder, chunk)["images"] for chunk in positives):
            return None
        return f"no image in {self._store().url(f'{object_id}/positive')} can be read"

    def _store(self) -> Store:
        path = self.config.generate.folder.path
        if path is None:
            raise ConfigError("generate.folder.path: generate.generator=folder needs the folder of your images")
        try:
            return open_store(path)
        except ConfigError as error:
            raise ConfigError(f"generate.folder.path: {error}") from None
