"""Takes the arguments of `persrep evaluate`: `ray job submit --working-dir . -- python jobs/evaluate.py …`."""

import sys

from persrep_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
