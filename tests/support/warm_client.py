"""Have a process that has imported much run a program; end as the program ends.

    python -IS warm_client.py SOCKET ARGUMENT...

`warm_python.py` says more.
"""

import json
import os
import socket
import sys

_, address, *arguments = sys.argv
asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(address)
    socket.send_fds(connection, [b" "], [0, 1, 2])
    connection.sendall(json.dumps(asked).encode() + b"\n")
    # Nothing comes from a process that ended before it knew how the program did.
    status = int(connection.recv(16) or 1)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
