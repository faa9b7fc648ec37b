"""`fedmarket` as a later version would be: a program that takes the lowest and the greatest protocol before the rest.

Its records are of a schema that this version may read and not change.
"""

import sys

from federation import records
from federation.link import source

NEW_SCHEMA = records.SCHEMA + 1

if __name__ == "__main__":
    source.PROTOCOL_MIN, source.PROTOCOL_MAX = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    records.SCHEMA = records.OLDEST = NEW_SCHEMA
    from zone_agent.cli.main import main  # what it imports takes over what was just set

    sys.exit(main())
