"""A client that writes to its export and reads back what it wrote, until a file appears.
Usage: migrate_client.py SOCKET EXPORT READY STOP SEED"""
import os
import random
import sys

from nbd_client import Client

socket_path, export, ready, stop, seed = sys.argv[1:]
choose = random.Random(int(seed))
client = Client(socket_path, export)
model = {}
while not os.path.exists(stop):
    offset = choose.randrange(client.size // 4096) * 4096
    model[offset] = choose.randbytes(4096)
    client.write(offset, model[offset])
    if len(model) % 16 == 0:
        client.flush()
    checked = choose.choice(list(model))
    assert client.read(checked, 4096) == model[checked], checked
    if len(model) == 8:
        open(ready, "w").close()
client.flush()
for offset, wanted in model.items():
    assert client.read(offset, 4096) == wanted, offset
