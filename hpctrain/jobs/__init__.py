"""Runs on disk and what can be told about them."""

from hpctrain.callable_package import make_callable

make_callable(__name__)
