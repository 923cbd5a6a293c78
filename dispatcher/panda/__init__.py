"""PanDA's two dialects at the dispatcher's door: translations onto the rules that all clients share.

door     finds the dialect, the caller and the method; nothing else knows HTTP
bodies   bytes ↔ parameters and answers, as lenient and as odd as PanDA's
v1       the methods of `/api/v1/` as a table, and how strictly it is read
legacy   the methods of `/server/panda/`
jobs     what both mean for jobs: acquire, update, status
reports  a final update as the report that the queue takes; pure
harvester  what both mean for Harvester: instances, workers, commands, statistics
uploads  logs and checkpoints that Harvester leaves here
files    queue and storage descriptions, the transform
"""
