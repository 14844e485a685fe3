"""`veridical ARGUMENTS` in a process of its own that can be asked what it holds: `python child.py serve …`.

A line on its input is answered by one on its output: the number of asyncio tasks that are not done.
"""

import asyncio
import gc
import sys
import threading

from veridical.__main__ import main
from veridical.middleware import retrying

retrying.FIRST_WAIT_S = 0.01  # a matrix of failing calls need not be polite to the upstream


def tell() -> None:
    for _ in sys.stdin:
        gc.collect()
        tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
        sys.stdout.write(f"{len(tasks)}\n")
        sys.stdout.flush()


threading.Thread(target=tell, daemon=True).start()
main()
