"""Look at this node: readings, findings, checks (entry package, standard library only: the prolog will import it)."""
