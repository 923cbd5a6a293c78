"""PanDA's two dialects at the dispatcher's door: translations, with the service behind them.

door        finds the dialect, the client and the method; nothing else knows HTTP
bodies      bytes ↔ parameters and answers, as lenient and as odd as PanDA's
v1          the methods of `/api/v1/` as a table, and how strictly it is read
calls       what the methods of `/api/v1/` do
legacy      the methods of `/server/panda/`
files       queue and storage data, the transform
queue_data  the operator's own queue and storage data
site_files  the same from site files

What these clients may ask is in `dispatcher/service/panda/`.
"""
