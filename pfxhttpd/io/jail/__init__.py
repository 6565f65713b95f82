"""The chroot and the drop of root's privileges.

The order is: `resolve` the identity, which changes nothing and reports whatever is wrong; bind listeners and read files
that only root can read; `preload` and `enter`, if there is a chroot; `drop`; `check_inside`, if there is a chroot. After
`drop` the privileges cannot be regained, and `verify` proves it, in child processes as well.
"""

from pfxhttpd.io.jail.drop_privileges import check_inside, drop, enter, verify
from pfxhttpd.io.jail.identity import Identity, check, missing, resolve
from pfxhttpd.io.jail.preload import preload

__all__ = ["Identity", "check", "check_inside", "drop", "enter", "missing", "preload", "resolve", "verify"]
