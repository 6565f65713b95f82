"""What the administrator wrote: loading, checking, and the frozen settings that come of it."""
