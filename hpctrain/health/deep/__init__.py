"""Deep checks of nodes that hold no job: computing, memory, links and disks under load."""
