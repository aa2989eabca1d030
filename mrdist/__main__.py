"""python -m mrdist"""

from mrdist.cli.main import main

raise SystemExit(main())
