"""`python -m benchmarks [PART] [OPTIONS]`; see README.md."""

import sys

from benchmarks.campaign import main, parse

if __name__ == "__main__":
    main(parse(sys.argv[1:]))
