"""Have a process that has imported much run a program; end as the program ends.

    python -IS warm_client.py SOCKET ARGUMENT...

`warm_python.py` says more.
"""

# Only what starts at once: a study starts hundreds of these.
import _socket
import marshal
import os
import sys

_, address, *arguments = sys.argv
asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
standard = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
connection = _socket.socket(_socket.AF_UNIX)
connection.connect(address)
connection.sendmsg([b" "], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, standard)])
connection.sendall(marshal.dumps(asked))
# Nothing comes from a process that ended before it knew how the program did.
status = int(connection.recv(16) or 1)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
