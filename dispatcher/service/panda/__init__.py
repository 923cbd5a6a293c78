"""What PanDA's clients may ask of the queue: their part of the service, by PanDA's rules.

identity    the client, and the queues that it may serve
acquire     jobs for a pilot or a Harvester
outside     what its pilots move by Rucio
updates     updates, states and commands of jobs
reports     a final update as the report that the queue takes; pure
harvester   instances, workers and statistics of Harvester
commands    commands for Harvester
uploads     logs and checkpoints that Harvester leaves here
"""
