"""One file per kind of suite: from this rank's rows to records, and from all records to measures."""
