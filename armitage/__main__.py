"""`python -m armitage` is the armitage command."""

import sys

from armitage.cli.entry import main

sys.exit(main())
