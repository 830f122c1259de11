"""`python -m veridical`: the command line."""

import os
import sys

from veridical.cli.main import main

if __name__ == "__main__":
    code = main()
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        # All is written; threads of torch.distributed may abort while they are torn down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
