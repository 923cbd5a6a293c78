"""PanDA's two dialects at the dispatcher's door: translations onto the rules for all clients.

door        finds the dialect, the client and the method; nothing else knows HTTP
identity    the client, and the queues that it may serve
bodies      bytes ↔ parameters and answers, as lenient and as odd as PanDA's
v1          the methods of `/api/v1/` as a table, and how strictly it is read
calls       what the methods of `/api/v1/` do
legacy      the methods of `/server/panda/`
acquire     jobs for a pilot or a Harvester
updates     updates, states and commands of jobs
reports     a final update as the report that the queue takes; pure
harvester   instances, workers and statistics of Harvester
commands    commands for Harvester
uploads     logs and checkpoints that Harvester leaves here
files       queue and storage data, the transform
queue_data  the operator's own queue and storage data
"""
