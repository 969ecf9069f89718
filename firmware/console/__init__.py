"""The console: the shop's calls in a browser. A process of its own; the recorder does not need it."""
