"""Training of a ResNet50 on CIFAR-10, whose bits repeat."""

import os

if not os.environ.get("XDG_CACHE_HOME", "/").startswith("/"):
    del os.environ["XDG_CACHE_HOME"]  # its specification says to ignore a relative path
