"""Test equipment: programmable peers of the daemon, the daemon itself as a subprocess, and what both need."""
