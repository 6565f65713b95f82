"""The descent from root: who we become, what the jail must hold and what it will lack, and the way down.

In order: `resolve` (nothing changes, everything that can be wrong is said), listeners are bound and files read by
others, `preload` and `enter` if there is a jail, `drop`, `check_inside` if there is a jail. After `drop` there is no
way back, and `verify` proves it, in children too.
"""

from pfxhttpd.io.jail.drop_privileges import check_inside, drop, enter, verify
from pfxhttpd.io.jail.identity import Identity, missing, resolve
from pfxhttpd.io.jail.preload import preload

__all__ = ["Identity", "check_inside", "drop", "enter", "missing", "preload", "resolve", "verify"]
