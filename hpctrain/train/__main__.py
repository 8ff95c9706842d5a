"""``python -m hpctrain.train``: one rank of a training run (entry point).

Command line, the same for every rank::

    python -m hpctrain.train [--recipe FILE.json] [--run-dir DIR]

``--run-dir`` defaults to ``HPCTRAIN_RUN_DIR``; ``--recipe`` defaults to ``<run dir>/recipe.resolved.json``, which
holds ``Recipe.model_dump(mode="json")``. Relative paths in the recipe are relative to the working directory.

Environment: torchrun's names (RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT; rank 0 opens
the store on MASTER_PORT itself unless TORCHELASTIC_USE_AGENT_STORE is True) and the optional HPCTRAIN_* names of
:mod:`hpctrain.train.environment`. Without any of them it trains alone, in one process.

Exit codes: 0 all steps are done and the model is saved; 75 stopped on request after a save: start me again; the codes
of :mod:`hpctrain.errors` for what the user or the site has to mend (starting again will not help, except 9 once there
is space); 1 anything else, with the traceback in TORCHELASTIC_ERROR_FILE in torchrun's format.
"""
