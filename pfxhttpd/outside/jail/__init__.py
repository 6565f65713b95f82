"""The descent from root: who we become, what the jail must hold and what it will lack, and the way down.

In order: `resolve` (nothing changes, everything that can be wrong is said), listeners are bound and files read by
others, `preload` and `enter` if there is a jail, `drop`. After `drop` there is no way back, and `verify` proves it.
"""

from pfxhttpd.outside.jail.descent import drop, enter, verify
from pfxhttpd.outside.jail.identity import Identity, JailError, missing, resolve
from pfxhttpd.outside.jail.preload import preload

__all__ = ["Identity", "JailError", "drop", "enter", "missing", "preload", "resolve", "verify"]
