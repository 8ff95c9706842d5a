"""From a recipe to a Slurm job."""

from hpctrain.callable_package import make_callable

make_callable(__name__)
