"""Takes the arguments of `persrep personalize`: `ray job submit --working-dir . -- python jobs/personalize.py …`."""

import sys

from persrep_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["personalize", *sys.argv[1:]]))
